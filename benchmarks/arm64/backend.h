// What a runner program and a runtime say to each other: buffers, graphs, and the one call that runs a graph.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace helium_edge {

enum class Type { kInt8, kInt32, kInt64, kFloat16, kFloat32 };

inline size_t size_of(Type type) {
  switch (type) {
    case Type::kInt8: return 1;
    case Type::kFloat16: return 2;
    case Type::kInt64: return 8;
    default: return 4;
  }
}

// Memory of the host that a graph reads or writes.
struct Buffer {
  Type type;
  std::vector<int64_t> shape;
  void* data;

  size_t bytes() const {
    size_t total = size_of(type);
    for (int64_t size : shape) total *= static_cast<size_t>(size);
    return total;
  }
};

struct Entry {
  std::string name;
  std::string role;
};

struct Graph {
  std::string file;
  std::string method;
  int64_t tokens = 0;
  int64_t slots = 0;
  std::vector<Entry> inputs;
  std::vector<Entry> outputs;
};

// What runs a graph: buffers stand in the graph's own order, and outputs are to be filled where they are.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual void run(const Graph& graph, const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs) = 0;
  // Behind a run, where it leaves its outputs in memory of its own: a copy, which is not counted.
  virtual void fetch(const Graph&, const std::vector<Buffer>&) {}
};

}  // namespace helium_edge
