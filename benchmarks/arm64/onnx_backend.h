// Runs ONNX graphs on the library of ONNX Runtime's wheel, which ships no headers.
//
// Its C API is a table of functions. Entries of version 1 keep their place and meaning in every later release (the
// library asserts it when it is built), and all that is needed here is among them.
#pragma once

#include <dlfcn.h>

#include <map>
#include <stdexcept>

#include "backend.h"

namespace helium_edge {

struct OrtApiBase {
  const void* const* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

// Handles are opaque, and a status that is not null is an error.
using Handle = void*;

class OnnxBackend : public Backend {
 public:
  OnnxBackend(const std::string& library, const std::string& folder) : folder_(folder) {
    Handle loaded = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!loaded) throw std::runtime_error(dlerror());
    auto base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(loaded, "OrtGetApiBase"));
    api_ = base ? base()->get_api(1) : nullptr;
    if (!api_) throw std::runtime_error("the library does not offer version 1 of the ONNX Runtime API");
    call<int, const char*, Handle*>(kCreateEnv, kLogErrors, "helium-edge", &environment_);
    call<Handle*>(kCreateSessionOptions, &options_);
    call<Handle, int>(kSetIntraOpNumThreads, options_, 1);
    call<int, int, Handle*>(kCreateCpuMemoryInfo, kDeviceAllocator, kDefaultMemory, &memory_);
  }

  void run(const Graph& graph, const std::vector<Buffer>& inputs, const std::vector<Buffer>& outputs) override {
    std::vector<const char*> names[2];
    std::vector<Handle> values[2];
    for (const Entry& entry : graph.inputs) names[0].push_back(entry.name.c_str());
    for (const Entry& entry : graph.outputs) names[1].push_back(entry.name.c_str());
    for (const Buffer& buffer : inputs) values[0].push_back(value(buffer));
    for (const Buffer& buffer : outputs) values[1].push_back(value(buffer));
    call<Handle, Handle, const char* const*, const Handle*, size_t, const char* const*, size_t, Handle*>(
        kRun, session(graph.file), nullptr, names[0].data(), values[0].data(), values[0].size(), names[1].data(),
        values[1].size(), values[1].data());
    for (const auto& side : values) {
      for (Handle one : side) reinterpret_cast<void (*)(Handle)>(const_cast<void*>(api_[kReleaseValue]))(one);
    }
  }

 private:
  // Places in the table, and values of enumerations.
  enum : size_t {
    kGetErrorMessage = 2, kCreateEnv = 3, kCreateSession = 7, kRun = 9, kCreateSessionOptions = 10,
    kSetIntraOpNumThreads = 24, kCreateTensorWithData = 49, kCreateCpuMemoryInfo = 69, kReleaseValue = 96,
  };
  enum : int { kLogErrors = 3, kDeviceAllocator = 0, kDefaultMemory = 0 };

  template <typename... Arguments>
  void call(size_t place, Arguments... arguments) {
    auto function = reinterpret_cast<Handle (*)(Arguments...)>(const_cast<void*>(api_[place]));
    Handle status = function(arguments...);
    if (status) {
      auto message = reinterpret_cast<const char* (*)(Handle)>(const_cast<void*>(api_[kGetErrorMessage]));
      throw std::runtime_error(message(status));
    }
  }

  Handle session(const std::string& file) {
    Handle& session = sessions_[file];
    if (!session) {
      const std::string path = folder_ + "/" + file;
      call<Handle, const char*, Handle, Handle*>(kCreateSession, environment_, path.c_str(), options_, &session);
    }
    return session;
  }

  // Memory of the host as a value; outputs over the memory of inputs are updated in place.
  Handle value(const Buffer& buffer) {
    static const std::map<Type, int> types{{Type::kFloat32, 1}, {Type::kInt8, 3},    {Type::kInt32, 6},
                                           {Type::kInt64, 7},   {Type::kFloat16, 10}};
    Handle result = nullptr;
    call<Handle, void*, size_t, const int64_t*, size_t, int, Handle*>(
        kCreateTensorWithData, memory_, buffer.data, buffer.bytes(), buffer.shape.data(), buffer.shape.size(),
        types.at(buffer.type), &result);
    return result;
  }

  std::string folder_;
  const void* const* api_ = nullptr;
  Handle environment_ = nullptr, options_ = nullptr, memory_ = nullptr;
  std::map<std::string, Handle> sessions_;
};

}  // namespace helium_edge
