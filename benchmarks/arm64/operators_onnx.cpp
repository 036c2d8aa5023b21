// Runs single operators on ONNX Runtime.
//
// Usage: operators SCRIPT VALUES OUT FOLDER LIBRARY
#include "onnx_backend.h"
#include "operators.h"

int main(int argc, char** argv) try {
  if (argc != 6) throw std::runtime_error("usage: operators SCRIPT VALUES OUT FOLDER LIBRARY");
  helium_edge::OnnxBackend backend(argv[5], argv[4]);
  helium_edge::run_operators(argv[1], backend, argv[2], argv[3]);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
