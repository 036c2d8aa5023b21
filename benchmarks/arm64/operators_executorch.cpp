// Runs single operators on ExecuTorch.
//
// Usage: operators SCRIPT VALUES OUT FOLDER
#include "executorch_backend.h"
#include "operators.h"

int main(int argc, char** argv) try {
  if (argc != 5) throw std::runtime_error("usage: operators SCRIPT VALUES OUT FOLDER");
  helium_edge::ExecutorchBackend backend(argv[4]);
  helium_edge::run_operators(argv[1], backend, argv[2], argv[3]);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
