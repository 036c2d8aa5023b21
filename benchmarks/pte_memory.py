"""Memory that an XNNPACK bundle takes in a process without Python, as in an app: weights, work space, no cache.

    python benchmarks/pte_memory.py BUNDLE [--compiler g++]

Compiles `pte_memory.cpp` against the libraries in executorch's wheel (Linux) and runs the bundle's methods in it:
`prefill` and `decode`, and then all of them.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import tempfile
from pathlib import Path

from helium_edge.bundle import open_bundle

LIBRARIES = (
    "executorch", "executorch_kernels_optimized", "executorch_kernels_quantized", "executorch_backend_xnnpack",
    "executorch_threadpool",
)  # fmt: skip


def build(compiler: str, folder: Path) -> Path:
    """Compile the program."""
    spec = importlib.util.find_spec("executorch")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("executorch is not installed: pip install 'helium-edge[executorch]'")
    root = Path(spec.submodule_search_locations[0])
    program = folder / "pte_memory"
    command = [
        compiler, "-std=c++17", "-O1", str(Path(__file__).with_suffix(".cpp")), "-o", str(program),
        "-isystem", str(root / "include"),
        "-isystem", str(root / "include/executorch/runtime/core/portable_type/c10"),
        "-DC10_USING_CUSTOM_GENERATED_MACROS", "-DET_EVENT_TRACER_ENABLED",  # as the libraries were built
        f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", "-Wl,--no-as-needed",
        *(f"-l{name}" for name in LIBRARIES), "-Wl,--allow-shlib-undefined",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    return program


def main() -> None:
    """Print a line for each set of methods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--compiler", default="g++")
    args = parser.parse_args()
    bundle = open_bundle(args.bundle)
    graphs = bundle.manifest.graphs
    every = [graph.method for graph in graphs if graph.method is not None]
    with tempfile.TemporaryDirectory() as name:
        program = build(args.compiler, Path(name))
        for methods in dict.fromkeys((("prefill", "decode"), tuple(every))):
            command = [str(program), str(bundle.path(graphs[0].file)), *methods]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            print(f"methods: {', '.join(methods)}")
            for line in done.stdout.splitlines():
                when, anonymous, files = line.split()
                total = int(anonymous) + int(files)
                print(f"  {when:<7} {total:6} MiB: {anonymous:>5} anonymous, {files:>5} of files")


if __name__ == "__main__":
    main()
