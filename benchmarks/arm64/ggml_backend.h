// Runs single operators as llama.cpp builds them, on ggml. A graph has no file: its name says what it is.
//
//   product-TYPE-COLUMNS   x (ROWS, K) by a random matrix of that type, in the layout that llama.cpp gives it
//   attention-CONTEXT      rotary embedding, rows into a float16 cache, flash attention, after CONTEXT tokens
//   norm                   sum with the residual, RMS norm, gain
//   activation             silu of one by the other
#pragma once

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>

#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include "backend.h"

namespace helium_edge {

class GgmlBackend : public Backend {
 public:
  explicit GgmlBackend(int64_t head_dim) : head_dim_(head_dim), backend_(ggml_backend_cpu_init(), ggml_backend_free) {
    ggml_backend_cpu_set_n_threads(backend_.get(), 1);
  }

  void run(const Graph& graph, const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs) override {
    const std::string key = graph.file + "/" + std::to_string(inputs.at(0).shape.at(0));
    auto found = built_.find(key);
    if (found == built_.end()) found = built_.emplace(key, build(graph.file, inputs)).first;
    const Built& built = *found->second;
    for (size_t i = 0; i < inputs.size(); ++i) {
      ggml_backend_tensor_set(built.inputs.at(i), inputs[i].data, 0, inputs[i].bytes());
    }
    if (ggml_backend_graph_compute(backend_.get(), built.graph) != GGML_STATUS_SUCCESS) {
      throw std::runtime_error(graph.file + ": ggml did not compute it");
    }
    if (ggml_nbytes(built.output) != outputs.at(0).bytes()) throw std::runtime_error(graph.file + ": another shape");
    ggml_backend_tensor_get(built.output, outputs[0].data, 0, outputs[0].bytes());
  }

 private:
  using Context = std::unique_ptr<ggml_context, void (*)(ggml_context*)>;
  using Memory = std::unique_ptr<ggml_backend_buffer, void (*)(ggml_backend_buffer_t)>;
  using Allocator = std::unique_ptr<ggml_gallocr, void (*)(ggml_gallocr_t)>;

  // A graph with its weights and cache, and where its inputs lie.
  struct Built {
    Context weights{new_context(), ggml_free};
    Context nodes{new_context(), ggml_free};
    Memory memory{nullptr, ggml_backend_buffer_free};
    Allocator allocator{ggml_gallocr_new(ggml_backend_cpu_buffer_type()), ggml_gallocr_free};
    ggml_cgraph* graph = nullptr;
    std::vector<ggml_tensor*> inputs;
    ggml_tensor* output = nullptr;
  };

  static ggml_context* new_context() {
    return ggml_init({64 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true});
  }

  std::unique_ptr<Built> build(const std::string& name, const std::vector<Buffer>& inputs) {
    auto built = std::make_unique<Built>();
    built->graph = ggml_new_graph(built->nodes.get());
    for (const Buffer& buffer : inputs) {
      built->inputs.push_back(ggml_new_tensor_2d(built->nodes.get(), GGML_TYPE_F32, buffer.shape.at(1), buffer.shape.at(0)));
      ggml_set_input(built->inputs.back());
    }
    if (name.rfind("product-", 0) == 0) {
      product(*built, name.substr(8, name.rfind('-') - 8), std::stoll(name.substr(name.rfind('-') + 1)));
    } else if (name.rfind("attention-", 0) == 0) {
      attention(*built, std::stoll(name.substr(10)));
    } else if (name == "norm") {
      norm(*built);
    } else if (name == "activation") {
      built->output = ggml_swiglu_split(built->nodes.get(), built->inputs.at(0), built->inputs.at(1));
      finish(*built);
    } else {
      throw std::runtime_error(name + ": no operator of that name");
    }
    return built;
  }

  void finish(Built& built) {
    ggml_set_output(built.output);
    ggml_build_forward_expand(built.graph, built.output);
    if (!ggml_gallocr_alloc_graph(built.allocator.get(), built.graph)) throw std::runtime_error("no memory for a graph");
  }

  void product(Built& built, const std::string& type_name, int64_t columns) {
    const ggml_type type = type_of(type_name);
    ggml_tensor* x = built.inputs.at(0);
    const int64_t width = x->ne[0];
    ggml_tensor* weight = ggml_new_tensor_2d(built.weights.get(), type, width, columns);
    built.memory.reset(ggml_backend_alloc_ctx_tensors_from_buft(built.weights.get(), layout(weight, x)));
    std::vector<float> values(width * columns);
    uint32_t state = 1;
    for (float& value : values) value = static_cast<float>(state = state * 1664525u + 1013904223u) / 2147483648.0f - 1.0f;
    std::vector<char> quantized(ggml_nbytes(weight));
    ggml_quantize_chunk(type, values.data(), quantized.data(), 0, columns, width, nullptr);
    ggml_backend_tensor_set(weight, quantized.data(), 0, quantized.size());
    built.output = ggml_mul_mat(built.nodes.get(), weight, x);
    finish(built);
  }

  // The first extra layout of the processor that has the product, as llama.cpp chooses it; else the plain one.
  ggml_backend_buffer_type_t layout(ggml_tensor* weight, ggml_tensor* x) const {
    ggml_backend_dev_t device = ggml_backend_get_device(backend_.get());
    auto extras = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_backend_dev_get_extra_bufts"));
    for (ggml_backend_buffer_type_t* each = extras(device); each && *each; ++each) {
      Context context(new_context(), ggml_free);
      ggml_tensor* like = ggml_dup_tensor(context.get(), weight);
      Memory memory(ggml_backend_buft_alloc_buffer(*each, 0), ggml_backend_buffer_free);
      like->buffer = memory.get();
      if (ggml_backend_dev_supports_op(device, ggml_mul_mat(context.get(), like, x))) return *each;
    }
    return ggml_backend_cpu_buffer_type();
  }

  static ggml_type type_of(const std::string& name) {
    for (int type = 0; type < GGML_TYPE_COUNT; ++type) {
      const char* known = ggml_type_name(static_cast<ggml_type>(type));
      if (known && name == known) return static_cast<ggml_type>(type);
    }
    throw std::runtime_error(name + ": ggml has no type of that name");
  }

  // Queries, keys and values of some tokens, each (ROWS, HEADS * HEAD_DIM); memory of the cache in steps of 256.
  void attention(Built& built, int64_t past) {
    ggml_context* nodes = built.nodes.get();
    const int64_t width = built.inputs.at(0)->ne[0], rows = built.inputs.at(0)->ne[1], heads = width / head_dim_;
    const int64_t slots = (past + rows + 255) / 256 * 256;
    ggml_tensor* cache[2];
    for (ggml_tensor*& each : cache) each = ggml_new_tensor_2d(built.weights.get(), GGML_TYPE_F16, width, slots);
    ggml_tensor* positions = ggml_new_tensor_1d(built.weights.get(), GGML_TYPE_I32, rows);
    ggml_tensor* places = ggml_new_tensor_1d(built.weights.get(), GGML_TYPE_I64, rows);
    ggml_tensor* mask = ggml_new_tensor_2d(built.weights.get(), GGML_TYPE_F16, slots, rows);
    built.memory.reset(ggml_backend_alloc_ctx_tensors_from_buft(built.weights.get(), ggml_backend_cpu_buffer_type()));
    ggml_backend_buffer_clear(built.memory.get(), 0);
    std::vector<int32_t> position(rows);
    std::vector<int64_t> place(rows);
    std::vector<ggml_fp16_t> seen(slots * rows);
    for (int64_t row = 0; row < rows; ++row) {
      position[row] = static_cast<int32_t>(place[row] = past + row);
      for (int64_t slot = 0; slot < slots; ++slot) {
        seen[row * slots + slot] = ggml_fp32_to_fp16(slot <= past + row ? 0.0f : -INFINITY);
      }
    }
    ggml_backend_tensor_set(positions, position.data(), 0, ggml_nbytes(positions));
    ggml_backend_tensor_set(places, place.data(), 0, ggml_nbytes(places));
    ggml_backend_tensor_set(mask, seen.data(), 0, ggml_nbytes(mask));

    ggml_tensor* turned[2];
    for (int i = 0; i < 2; ++i) {
      ggml_tensor* split = ggml_reshape_3d(nodes, built.inputs.at(i), head_dim_, heads, rows);
      turned[i] = ggml_rope_ext(nodes, split, positions, nullptr, static_cast<int>(head_dim_), GGML_ROPE_TYPE_NORMAL,
                                4096, 1e5f, 1, 0, 1, 32, 1);
    }
    ggml_tensor* fresh[2] = {ggml_reshape_2d(nodes, turned[1], width, rows), built.inputs.at(2)};
    ggml_tensor* pasts[2];
    for (int i = 0; i < 2; ++i) {
      ggml_build_forward_expand(built.graph, ggml_set_rows(nodes, cache[i], fresh[i], places));
      ggml_tensor* split = ggml_reshape_3d(nodes, cache[i], head_dim_, heads, slots);
      pasts[i] = ggml_permute(nodes, split, 0, 2, 1, 3);
    }
    ggml_tensor* query = ggml_permute(nodes, turned[0], 0, 2, 1, 3);
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim_));
    ggml_tensor* attended = ggml_flash_attn_ext(nodes, query, pasts[0], pasts[1], mask, scale, 0, 0);
    ggml_prec_set_acc(attended, GGML_PREC_F32);
    built.output = ggml_reshape_2d(nodes, attended, width, rows);
    finish(built);
  }

  void norm(Built& built) {
    ggml_context* nodes = built.nodes.get();
    ggml_tensor* gain = ggml_new_tensor_1d(built.weights.get(), GGML_TYPE_F32, built.inputs.at(0)->ne[0]);
    built.memory.reset(ggml_backend_alloc_ctx_tensors_from_buft(built.weights.get(), ggml_backend_cpu_buffer_type()));
    ggml_backend_buffer_clear(built.memory.get(), 0);
    ggml_tensor* sum = ggml_add(nodes, built.inputs.at(0), built.inputs.at(1));
    built.output = ggml_mul(nodes, ggml_rms_norm(nodes, sum, 1e-8f), gain);
    finish(built);
  }

  const int64_t head_dim_;
  std::unique_ptr<ggml_backend, void (*)(ggml_backend_t)> backend_;
  std::map<std::string, std::unique_ptr<Built>> built_;
};

}  // namespace helium_edge
