// Runs the calls of a bundle on ONNX Runtime.
//
// Usage: runner SCRIPT ROWS OUT FOLDER LIBRARY
#include "host.h"
#include "onnx_backend.h"

int main(int argc, char** argv) try {
  if (argc != 6) throw std::runtime_error("usage: runner SCRIPT ROWS OUT FOLDER LIBRARY");
  helium_edge::OnnxBackend backend(argv[5], argv[4]);
  helium_edge::run_script(helium_edge::read_script(argv[1]), backend, argv[2], argv[3]);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
