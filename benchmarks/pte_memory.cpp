// Memory of a process that runs methods of one .pte as an app does: no Python, no torch, one set of packed weights.
//
// Usage: pte_memory FILE METHOD...
//
// Prints what Linux counts as resident after starting, after loading all methods, and after a call of each, in MiB:
// anonymous memory and pages of files. Buffers are never written, so that caches take none of it.
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/backend/options.h>

namespace {

using executorch::extension::Module;
using executorch::runtime::EValue;

void check(executorch::runtime::Error error, const std::string& what) {
  if (error == executorch::runtime::Error::Ok) return;
  throw std::runtime_error(what + ": ExecuTorch error " + std::to_string(static_cast<int>(error)));
}

void print_memory(const char* when) {
  std::ifstream status("/proc/self/status");
  long anonymous = 0, files = 0;
  for (std::string line; std::getline(status, line);) {
    if (line.rfind("RssAnon:", 0) == 0) anonymous = std::atol(line.c_str() + 8);
    if (line.rfind("RssFile:", 0) == 0) files = std::atol(line.c_str() + 8);
  }
  std::cout << when << " " << anonymous / 1024 << " " << files / 1024 << std::endl;
}

// Zeros that the system has not given memory for; they stay until the process ends.
EValue zeros(const executorch::runtime::TensorInfo& info) {
  std::vector<executorch::aten::SizesType> sizes(info.sizes().begin(), info.sizes().end());
  void* memory = std::calloc(1, info.nbytes());
  if (memory == nullptr) throw std::runtime_error("no memory");
  // Tensors belong to the pointer; a benchmark need not give them back.
  auto* tensor = new executorch::extension::TensorPtr(
      executorch::extension::make_tensor_ptr(sizes, memory, info.scalar_type()));
  return EValue(*tensor);
}

void share_packed_weights() {
  executorch::runtime::BackendOptions<1> options;
  check(options.set_option("weight_cache_enabled", true), "weight_cache_enabled");
  check(executorch::runtime::set_option("XnnpackBackend", options.view()), "weight_cache_enabled");
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 3) throw std::runtime_error("usage: pte_memory FILE METHOD...");
  share_packed_weights();
  print_memory("start");
  Module program(argv[1], Module::LoadMode::Mmap);
  const std::vector<std::string> methods(argv + 2, argv + argc);
  for (const std::string& method : methods) check(program.load_method(method), method);
  print_memory("loaded");
  for (const std::string& method : methods) {
    const auto meta = program.method_meta(method);
    check(meta.error(), method);
    std::vector<EValue> inputs;
    for (size_t i = 0; i < meta->num_outputs(); ++i)
      if (!meta->output_tensor_meta(i)->is_memory_planned()) throw std::runtime_error("export the bundle again");
    for (size_t i = 0; i < meta->num_inputs(); ++i) inputs.push_back(zeros(*meta->input_tensor_meta(i)));
    check(program.execute(method, inputs).error(), method);
  }
  print_memory("called");
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
