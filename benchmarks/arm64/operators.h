// Runs single operators, each over inputs from a file, and writes what they give; a plugin of the emulator counts what
// is executed between the two marks.
//
// A script is text, strings in double quotes, everything else a number or a word, in this order:
//
//   helium-edge-operators 1
//   JOBS, then of each:  "FILE" "METHOD"  WARMUPS
//                        INPUTS, then of each   "NAME" TYPE  RANK SIZE SIZE ...
//                        OUTPUTS, then of each  the same and  INPUT (whose memory it is, -1: its own)
//
// The file of inputs has the bytes of every input of every job in turn; the output has those of the outputs that have
// memory of their own. TYPE is i8, i32, i64, f16 or f32.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <memory>
#include <stdexcept>

#include "backend.h"

// Between their executions lies what is counted. They must not be inlined, nor be the same code.
extern "C" __attribute__((noinline, visibility("default"))) void helium_edge_begin() { asm volatile("nop"); }
extern "C" __attribute__((noinline, visibility("default"))) void helium_edge_end() { asm volatile("nop\nnop"); }

namespace helium_edge {

// Memory of one input or output, aligned as runtimes align theirs.
struct Memory {
  explicit Memory(size_t bytes) : bytes(bytes), data(std::aligned_alloc(64, (bytes + 63) / 64 * 64 + 64), std::free) {
    std::fill_n(static_cast<char*>(data.get()), bytes, 0);
  }
  size_t bytes;
  std::unique_ptr<void, void (*)(void*)> data;
};

inline Buffer read_operand(std::istream& in, std::string& name) {
  static const std::map<std::string, Type> types{
      {"i8", Type::kInt8}, {"i32", Type::kInt32}, {"i64", Type::kInt64}, {"f16", Type::kFloat16}, {"f32", Type::kFloat32}};
  std::string type;
  size_t rank = 0;
  in >> std::quoted(name) >> type >> rank;
  Buffer buffer{types.at(type), {}, nullptr};
  for (int64_t size = 0; rank > 0 && in >> size; --rank) buffer.shape.push_back(size);
  return buffer;
}

inline void run_job(std::istream& script, Backend& backend, std::istream& values, std::ostream& out) {
  Graph graph;
  size_t warmups = 0, count = 0;
  script >> std::quoted(graph.file) >> std::quoted(graph.method) >> warmups >> count;
  std::vector<Memory> memory;
  std::vector<Buffer> inputs, outputs;
  std::vector<size_t> own;
  for (size_t i = 0; script && i < count; ++i) {
    Entry entry;
    inputs.push_back(read_operand(script, entry.name));
    graph.inputs.push_back(entry);
    memory.emplace_back(inputs.back().bytes());
    inputs.back().data = memory.back().data.get();
    values.read(static_cast<char*>(inputs.back().data), static_cast<std::streamsize>(inputs.back().bytes()));
  }
  script >> count;
  for (size_t i = 0; script && i < count; ++i) {
    Entry entry;
    outputs.push_back(read_operand(script, entry.name));
    graph.outputs.push_back(entry);
    int64_t shared = -1;
    script >> shared;
    if (shared >= 0) {
      outputs.back().data = inputs.at(shared).data;
      continue;
    }
    memory.emplace_back(outputs.back().bytes());
    outputs.back().data = memory.back().data.get();
    own.push_back(i);
  }
  if (!script || !values) throw std::runtime_error("the script is not readable");
  for (size_t i = 0; i < warmups; ++i) backend.run(graph, inputs, outputs);
  helium_edge_begin();
  backend.run(graph, inputs, outputs);
  helium_edge_end();
  backend.fetch(graph, outputs);
  for (size_t i : own) {
    out.write(static_cast<const char*>(outputs[i].data), static_cast<std::streamsize>(outputs[i].bytes()));
  }
}

inline void run_operators(const std::string& script, Backend& backend, const std::string& values, const std::string& out) {
  std::ifstream text(script), in(values, std::ios::binary);
  std::ofstream results(out, std::ios::binary);
  std::string word;
  int version = 0;
  size_t jobs = 0;
  text >> word >> version >> jobs;
  if (!text || word != "helium-edge-operators" || version != 1) throw std::runtime_error("the script is not readable");
  for (size_t i = 0; i < jobs; ++i) run_job(text, backend, in, results);
  results.close();
  if (!results) throw std::runtime_error("the output cannot be written");
}

}  // namespace helium_edge
