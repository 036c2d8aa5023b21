// The part of the ARM64 runners that knows no runtime: reads a script, owns the KV cache, writes what calls give.
//
// Beside the script stands a file with the rows of the cache, in its own type, that the other processor wrote in each
// call: key and value of each layer in turn, (HEADS, COUNT, HEAD_DIM). Every call starts from them, so that the
// difference of one call does not carry over to the next. The output has, of each call, the logits of its last token,
// or of all its tokens, in float32, then its own rows in the same order and type.
//
// A script is text, strings in double quotes, everything else a number or a word, in this order:
//
//   helium-edge-script 2
//   VOCAB  last|all  INDEX_BITS  BATCHED  float32|float16|int8  LAYERS  HEADS  SLOTS  HEAD_DIM
//   GRAPHS, then of each:  "FILE" "METHOD"  TOKENS (0: free)  SLOTS
//                          INPUTS, then of each "NAME" "ROLE";  OUTPUTS, then of each "NAME" "ROLE"
//   CALLS, then of each:   GRAPH  COUNT  ID ID ...
//
// Names, roles and the two ways to update the cache are those of docs/bundle.md.
#pragma once

#include <algorithm>
#include <cstdint>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "backend.h"

namespace helium_edge {

using Floats = std::vector<float>;
using Bytes = std::vector<char>;

struct Call {
  size_t graph = 0;
  std::vector<int64_t> ids;
};

struct Script {
  int64_t vocab = 0, index_bits = 0, batched = 0, layers = 0, heads = 0, slots = 0, head_dim = 0;
  bool all_logits = false;
  Type cache_type = Type::kFloat32;
  std::vector<Graph> graphs;
  std::vector<Call> calls;
};

inline std::vector<Entry> read_entries(std::istream& in) {
  size_t count = 0;
  in >> count;
  std::vector<Entry> entries;
  for (size_t i = 0; in && i < count; ++i) {
    Entry entry;
    in >> std::quoted(entry.name) >> std::quoted(entry.role);
    entries.push_back(entry);
  }
  return entries;
}

inline Script read_script(const std::string& path) {
  std::ifstream in(path);
  static const std::map<std::string, Type> types{
      {"float32", Type::kFloat32}, {"float16", Type::kFloat16}, {"int8", Type::kInt8}};
  std::string word, logits, type;
  int version = 0;
  Script script;
  in >> word >> version >> script.vocab >> logits >> script.index_bits >> script.batched >> type >> script.layers >>
      script.heads >> script.slots >> script.head_dim;
  script.all_logits = logits == "all";
  if (types.count(type)) script.cache_type = types.at(type);
  size_t count = 0;
  in >> count;
  for (size_t i = 0; in && i < count; ++i) {
    Graph graph;
    in >> std::quoted(graph.file) >> std::quoted(graph.method) >> graph.tokens >> graph.slots;
    graph.inputs = read_entries(in);
    graph.outputs = read_entries(in);
    script.graphs.push_back(graph);
  }
  in >> count;
  for (size_t i = 0; in && i < count; ++i) {
    Call call;
    size_t ids = 0;
    in >> call.graph >> ids;
    for (int64_t id = 0; ids > 0 && in >> id; --ids) call.ids.push_back(id);
    script.calls.push_back(call);
  }
  if (!in || word != "helium-edge-script" || version != 2 || !types.count(type)) throw std::runtime_error("the script is not readable");
  return script;
}

// The cache of all layers and the number of tokens in it.
class Host {
 public:
  explicit Host(const Script& script)
      : script_(script),
        row_(script.head_dim * static_cast<int64_t>(size_of(script.cache_type))),
        cache_(2 * script.layers, Bytes(script.heads * script.slots * row_)) {}

  // Run one call and write what it gives; then put the rows that are read from `rows` in the place of its own.
  void run(Backend& backend, const Call& call, std::istream& rows, std::ostream& out) {
    const Graph& graph = script_.graphs.at(call.graph);
    const int64_t count = static_cast<int64_t>(call.ids.size());
    const int64_t width = graph.tokens ? graph.tokens : count;
    if (count < 1 || count > width || position_ + width > graph.slots || graph.slots > script_.slots) {
      throw std::runtime_error("a call of the script does not fit its graph");
    }
    std::vector<int64_t> ids(call.ids);
    ids.resize(width, ids.back());  // any valid id; what it gives is unused
    Index past(position_), last(count - 1);
    const bool whole = graph.slots == script_.slots;
    std::vector<Bytes> shorter = whole ? std::vector<Bytes>() : first_slots(graph.slots);
    std::vector<Bytes>& cache = whole ? cache_ : shorter;

    std::vector<Buffer> inputs, outputs;
    size_t pasts = 0, presents = 0;
    for (const Entry& entry : graph.inputs) {
      if (entry.role == "tokens") {
        inputs.push_back({Type::kInt64, {1, width}, ids.data()});
      } else if (entry.role == "past_length") {
        inputs.push_back(past.buffer(script_.index_bits));
      } else if (entry.role == "last_index") {
        inputs.push_back(last.buffer(script_.index_bits));
      } else if (entry.role == "past_key" || entry.role == "past_value") {
        inputs.push_back({script_.cache_type, cache_shape(graph.slots), cache.at(pasts++).data()});
      } else {
        throw std::runtime_error("input " + entry.name + ": the role " + entry.role + " is not known");
      }
    }
    Floats logits((script_.all_logits ? width : 1) * script_.vocab);
    std::vector<Bytes> fresh;
    fresh.reserve(graph.outputs.size());
    for (const Entry& entry : graph.outputs) {
      if (entry.role == "logits") {
        outputs.push_back({Type::kFloat32, {1, script_.all_logits ? width : 1, script_.vocab}, logits.data()});
      } else if (whole && (entry.role == "present_key" || entry.role == "present_value")) {
        outputs.push_back({script_.cache_type, cache_shape(graph.slots), cache.at(presents++).data()});
      } else if (entry.role == "new_key" || entry.role == "new_value") {
        fresh.emplace_back(script_.heads * width * row_);
        outputs.push_back({script_.cache_type, {script_.heads, width, script_.head_dim}, fresh.back().data()});
      } else {
        throw std::runtime_error("output " + entry.name + ": the role " + entry.role + " is not known");
      }
    }
    backend.run(graph, inputs, outputs);
    backend.fetch(graph, outputs);
    for (size_t i = 0; i < fresh.size(); ++i) append(cache_.at(i), fresh[i], width, count);
    const int64_t values = (script_.all_logits ? count : 1) * script_.vocab;
    out.write(reinterpret_cast<const char*>(logits.data()), values * static_cast<int64_t>(sizeof(float)));
    exchange_rows(count, rows, out);
    position_ += count;
  }

 private:
  struct Index {
    explicit Index(int64_t value) : wide(value), narrow(static_cast<int32_t>(value)) {}
    Buffer buffer(int64_t bits) {
      if (bits == 64) return {Type::kInt64, {1}, &wide};
      return {Type::kInt32, {1}, &narrow};
    }
    int64_t wide;
    int32_t narrow;
  };

  std::vector<int64_t> cache_shape(int64_t slots) const {
    std::vector<int64_t> shape{script_.heads, slots, script_.head_dim};
    if (script_.batched) shape.insert(shape.begin(), 1);
    return shape;
  }

  // The tokens so far in a cache of fewer slots.
  std::vector<Bytes> first_slots(int64_t slots) const {
    std::vector<Bytes> result(cache_.size(), Bytes(script_.heads * slots * row_));
    for (size_t i = 0; i < cache_.size(); ++i) {
      for (int64_t head = 0; head < script_.heads; ++head) {
        const char* from = cache_[i].data() + head * script_.slots * row_;
        std::copy_n(from, position_ * row_, result[i].data() + head * slots * row_);
      }
    }
    return result;
  }

  // Copy the real ones of the new rows to their slots.
  void append(Bytes& cache, const Bytes& rows, int64_t width, int64_t count) const {
    for (int64_t head = 0; head < script_.heads; ++head) {
      char* to = cache.data() + (head * script_.slots + position_) * row_;
      std::copy_n(rows.data() + head * width * row_, count * row_, to);
    }
  }

  // Write the rows of the last call, wherever the graph put them, and read those that take their place.
  void exchange_rows(int64_t count, std::istream& in, std::ostream& out) {
    for (Bytes& cache : cache_) {
      for (int64_t head = 0; head < script_.heads; ++head) {
        char* rows = cache.data() + (head * script_.slots + position_) * row_;
        out.write(rows, count * row_);
        in.read(rows, count * row_);
      }
    }
    if (!in) throw std::runtime_error("the file of rows is too short");
  }

  const Script& script_;
  const int64_t row_;  // bytes of a head and token
  std::vector<Bytes> cache_;
  int64_t position_ = 0;
};

// Run all calls.
inline void run_script(const Script& script, Backend& backend, const std::string& rows, const std::string& out) {
  Host host(script);
  std::ifstream in_file(rows, std::ios::binary);
  std::ofstream out_file(out, std::ios::binary);
  for (const Call& call : script.calls) host.run(backend, call, in_file, out_file);
  out_file.close();
  if (!out_file) throw std::runtime_error("the output cannot be written");
}

}  // namespace helium_edge
