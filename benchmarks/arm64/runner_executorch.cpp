// Runs the calls of a bundle on ExecuTorch.
//
// Usage: runner SCRIPT ROWS OUT FOLDER
#include "executorch_backend.h"
#include "host.h"

int main(int argc, char** argv) try {
  if (argc != 5) throw std::runtime_error("usage: runner SCRIPT ROWS OUT FOLDER");
  helium_edge::ExecutorchBackend backend(argv[4]);
  helium_edge::run_script(helium_edge::read_script(argv[1]), backend, argv[2], argv[3]);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
