// Runs single operators of llama.cpp on ggml.
//
// Usage: operators SCRIPT VALUES OUT FOLDER
#include "ggml_backend.h"
#include "operators.h"

int main(int argc, char** argv) try {
  if (argc != 5) throw std::runtime_error("usage: operators SCRIPT VALUES OUT FOLDER");
  helium_edge::GgmlBackend backend(128);
  helium_edge::run_operators(argv[1], backend, argv[2], argv[3]);
  return 0;
} catch (const std::exception& error) {
  std::cerr << error.what() << std::endl;
  return 1;
}
