// A bundle's decoder.pte on a plain ExecuTorch runtime: the greedy ids after a prompt of ids, one a line.
//
//     executorch_host decoder.pte COUNT ID...
//
// What to link: docs/bundle.md. All shapes come from the file.

#include <algorithm>
#include <iostream>

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

using executorch::extension::Module;
using executorch::runtime::EValue;

struct Buffer {  // memory of the host's, and a tensor over it
  explicit Buffer(const executorch::runtime::TensorInfo& info)
      : memory(info.nbytes()), tensor(executorch::extension::make_tensor_ptr(
            {info.sizes().begin(), info.sizes().end()}, memory.data(), info.scalar_type())) {}
  std::vector<char> memory;  // zeros
  executorch::extension::TensorPtr tensor;
};

struct Method {  // inputs: input_ids, past_length, perhaps last_index, and the cache
  Method(Module& program, const std::string& name, size_t caches) {
    const auto meta = program.method_meta(name);
    if (!meta.ok() || program.load_method(name) != executorch::runtime::Error::Ok)
      throw std::runtime_error("cannot load " + name);
    for (size_t i = 0; i < meta->num_inputs() - caches; ++i) inputs.emplace_back(*meta->input_tensor_meta(i));
    for (size_t i = 0; i < meta->num_outputs(); ++i)
      if (!meta->output_tensor_meta(i)->is_memory_planned()) throw std::runtime_error("export the bundle again");
    width = inputs[0].tensor->size(1);
  }
  int64_t* numbers(size_t i) { return inputs[i].tensor->mutable_data_ptr<int64_t>(); }
  std::vector<Buffer> inputs;  // not planned into the program's memory: it reads them where they lie
  size_t width;
};

int main(int argc, char** argv) try {
  Module program(argv[1], Module::LoadMode::Mmap);
  const auto meta = program.method_meta("decode");
  if (!meta.ok()) throw std::runtime_error("no method decode");
  std::vector<Buffer> cache;  // (Hkv, S, D) each
  for (size_t i = 2; i < meta->num_inputs(); ++i) cache.emplace_back(*meta->input_tensor_meta(i));
  Method prefill(program, "prefill", cache.size()), decode(program, "decode", cache.size());
  size_t length = 0;

  // The best token after at most prefill.width others; their rows go to slots `length` and up.
  const auto call = [&](const std::vector<int64_t>& ids) -> int64_t {
    Method& method = ids.size() > 1 ? prefill : decode;
    for (size_t i = 0; i < method.width; ++i) method.numbers(0)[i] = ids[std::min(i, ids.size() - 1)];
    *method.numbers(1) = length;
    if (method.inputs.size() > 2) *method.numbers(2) = ids.size() - 1;
    std::vector<EValue> inputs;
    for (const auto* buffers : {&method.inputs, &cache})
      for (const Buffer& each : *buffers) inputs.emplace_back(each.tensor);
    const std::string name = &method == &prefill ? "prefill" : "decode";
    const auto outputs = program.execute(name, inputs);  // logits and new rows, until the next call
    if (!outputs.ok()) throw std::runtime_error(name + " failed");
    for (size_t i = 0; i < cache.size(); ++i) {  // append: the real rows, and none of the padding
      const auto& rows = outputs->at(i + 1).toTensor();
      const size_t heads = rows.size(0), bytes = rows.nbytes() / heads / method.width;
      const char* row = rows.const_data_ptr<char>();
      for (size_t h = 0, slots = cache[i].tensor->size(1); h < heads; ++h)
        std::copy_n(row + h * method.width * bytes, ids.size() * bytes, &cache[i].memory[(h * slots + length) * bytes]);
    }
    length += ids.size();
    const auto& logits = outputs->at(0).toTensor();  // (1, 1, V), or (1, T, V) with `logits: all`
    const float* row = logits.const_data_ptr<float>() + (logits.size(1) == 1 ? 0 : ids.size() - 1) * logits.size(2);
    return std::max_element(row, row + logits.size(2)) - row;
  };

  std::vector<int64_t> prompt;
  std::transform(argv + 3, argv + argc, std::back_inserter(prompt), [](const char* id) { return std::stoll(id); });
  int64_t token = call(prompt);  // longer ones in chunks of prefill.width
  for (int left = std::stoi(argv[2]); left > 0; --left, token = call({token})) std::cout << token << '\n';
} catch (const std::exception& error) {
  return std::cerr << error.what() << '\n', 1;
}
