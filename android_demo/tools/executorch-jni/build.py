"""Compiles `binding.cpp` against the libraries in executorch's wheel: `build.py JAVA_HOME LIBRARY`.

Exit code 5: the wheel, or a C++ compiler, is missing.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "benchmarks"))


def main(java_home: Path, library: Path) -> int:
    """0 where the library is there."""
    from arm64.wheels import Library

    spec = importlib.util.find_spec("executorch")
    compiler = shutil.which("g++")
    if spec is None or not spec.submodule_search_locations or compiler is None:
        sys.stdout.write("the Python package executorch (pip install '.[executorch]')\n" if compiler else "g++\n")
        return 5
    wheel = Library("executorch", "installed", Path(spec.submodule_search_locations[0]).parent)
    includes = [f"-I{java_home / 'include'}", f"-I{java_home / 'include/linux'}"]
    source = str(HERE / "binding.cpp")
    command = [compiler, "-std=c++17", "-O1", "-fPIC", "-shared", *includes, source, *wheel.compiler_arguments()]
    return subprocess.run([*command, "-o", str(library)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
