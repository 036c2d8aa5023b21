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

from arm64.wheels import Library
from helium_edge.bundle import open_bundle


def build(compiler: str, folder: Path) -> Path:
    """Compile the program."""
    spec = importlib.util.find_spec("executorch")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("executorch is not installed: pip install '.[executorch]'")
    # Wheels for all processors have the same parts in the same places.
    library = Library("executorch", "installed", Path(spec.submodule_search_locations[0]).parent)
    program, source = folder / "pte_memory", Path(__file__).with_suffix(".cpp")
    command = [compiler, "-std=c++17", "-O1", str(source), *library.compiler_arguments(), "-o", str(program)]
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
    if bundle.manifest.target.name != "xnnpack":
        parser.error(f"{args.bundle}: a bundle for {bundle.manifest.target.name}; xnnpack is wanted")
    every = tuple(graph.method for graph in graphs if graph.method is not None)
    pair = tuple(name for name in ("prefill", "decode") if name in every)  # a classifier has neither
    with tempfile.TemporaryDirectory() as name:
        program = build(args.compiler, Path(name))
        for methods in dict.fromkeys((pair or every, every)):
            command = [str(program), str(bundle.path(graphs[0].file)), *methods]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            print(f"methods: {', '.join(methods)}")
            for line in done.stdout.splitlines():
                when, anonymous, files = line.split()
                total = int(anonymous) + int(files)
                print(f"  {when:<7} {total:6} MiB: {anonymous:>5} anonymous, {files:>5} of files")


if __name__ == "__main__":
    main()
