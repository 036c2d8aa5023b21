// Runs the methods of a .pte on the libraries of ExecuTorch's wheel, which need neither torch nor Python.
#pragma once

#include <cstring>
#include <map>
#include <set>
#include <stdexcept>
#include <memory>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include "backend.h"

namespace helium_edge {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::extension::Module;
using executorch::runtime::EValue;

class ExecutorchBackend : public Backend {
 public:
  explicit ExecutorchBackend(const std::string& folder) : folder_(folder) {}

  void run(const Graph& graph, const std::vector<Buffer>& inputs, const std::vector<Buffer>&) override {
    Module& program = module(graph);
    tensors_.clear();
    auto results = program.execute(graph.method, values(inputs));
    check(graph, results.error());
    results_ = std::move(*results);
  }

  // Outputs lie in the program's own memory until its next call.
  void fetch(const Graph& graph, const std::vector<Buffer>& outputs) override {
    for (size_t i = 0; i < outputs.size(); ++i) {
      const auto& result = results_.at(i).toTensor();
      if (result.nbytes() != outputs[i].bytes()) throw std::runtime_error(graph.outputs[i].name + ": another shape than expected");
      std::memcpy(outputs[i].data, result.const_data_ptr(), result.nbytes());
    }
  }

 private:
  static void check(const Graph& graph, executorch::runtime::Error error) {
    if (error == executorch::runtime::Error::Ok) return;
    throw std::runtime_error(graph.file + ", method " + graph.method + ": ExecuTorch error " +
                             std::to_string(static_cast<int>(error)));
  }

  // Tensors over the memory of the host; they live until the next call.
  std::vector<EValue> values(const std::vector<Buffer>& buffers) {
    std::vector<EValue> result;
    for (const Buffer& buffer : buffers) {
      const std::vector<SizesType> sizes(buffer.shape.begin(), buffer.shape.end());
      static const std::map<Type, ScalarType> types{{Type::kFloat32, ScalarType::Float},
                                                    {Type::kInt8, ScalarType::Char},
                                                    {Type::kInt32, ScalarType::Int},
                                                    {Type::kInt64, ScalarType::Long},
                                                    {Type::kFloat16, ScalarType::Half}};
      tensors_.push_back(executorch::extension::make_tensor_ptr(sizes, buffer.data, types.at(buffer.type)));
      result.emplace_back(tensors_.back());
    }
    return result;
  }

  Module& module(const Graph& graph) {
    std::unique_ptr<Module>& module = modules_[graph.file];
    if (!module) module = std::make_unique<Module>(folder_ + "/" + graph.file, Module::LoadMode::Mmap);
    if (!known_.insert(graph.file + ":" + graph.method).second) return *module;
    const auto meta = module->method_meta(graph.method);
    check(graph, meta.error());
    for (size_t i = 0; i < meta->num_outputs(); ++i) {
      if (!meta->output_tensor_meta(i)->is_memory_planned()) throw std::runtime_error(graph.file + ": export the bundle again");
    }
    return *module;
  }

  std::string folder_;
  std::vector<executorch::extension::TensorPtr> tensors_;
  std::vector<EValue> results_;
  std::set<std::string> known_;
  std::map<std::string, std::unique_ptr<Module>> modules_;
};

}  // namespace helium_edge
