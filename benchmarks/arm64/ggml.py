"""llama.cpp's ggml for ARM64, compiled here from the archive of llama-cpp-python, once for each processor."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from arm64.toolchain import COMPILER
from arm64.wheels import Library, cache_folder
from helium_edge.durable import PartialFolder
from helium_edge.errors import HeliumEdgeError, MissingToolError

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
_SOURCES = f"llama_cpp_python-{VERSION}"
_GGML = "vendor/llama.cpp/ggml/"

_TOP = f"""cmake_minimum_required(VERSION 3.14)
project(ggml-alone C CXX)
add_subdirectory({_SOURCES}/{_GGML})
"""

ARCHITECTURES = {"cortex-a76": "armv8.2-a+dotprod+fp16", "i8mm": "armv8.6-a+dotprod+fp16+i8mm"}
"""What ggml is compiled for, by processor: Android's builds have one library for each of these."""


class Ggml(Library):
    """ggml for one processor: static libraries and their headers in one folder."""

    def source(self, kind: str) -> str:
        return f"{kind}_ggml.cpp"

    def compiler_arguments(self) -> list[str]:
        libraries = [str(self.folder / "lib" / f"lib{name}.a") for name in ("ggml-cpu", "ggml-base")]
        return ["-isystem", str(self.folder / "include"), *libraries, "-lpthread", "-ldl", "-lm"]

    def program_arguments(self) -> list[str]:
        return []


def build_ggml(cpu: str) -> Ggml:
    """ggml for a processor; compiled once, in a few minutes, then from the cache.

    Raises:
        MissingToolError: The sources cannot be downloaded, or CMake is not installed.
        HeliumEdgeError: They do not compile.
    """
    folder = cache_folder() / f"ggml-{VERSION}-{cpu}"
    if not folder.is_dir():
        if shutil.which("cmake") is None:
            raise MissingToolError(
                "compiling ggml needs cmake, which is not installed", hint="apt-get install cmake"
            )
        with PartialFolder(folder, shown=str(folder), activity="compile ggml") as partial:
            sources = _unpack(_archive(), partial.path)
            # As a part of llama.cpp: by itself ggml would want files that are not in the archive.
            (partial.path / "CMakeLists.txt").write_text(_TOP, encoding="utf-8")
            _compile(partial.path, ARCHITECTURES[cpu])
            (partial.path / "lib").mkdir()
            for path in (partial.path / "build").rglob("*.a"):
                shutil.move(path, partial.path / "lib" / path.name)
            shutil.move(sources / "include", partial.path / "include")
            for name in ("build", _SOURCES):
                shutil.rmtree(partial.path / name)
            (partial.path / "CMakeLists.txt").unlink()
            partial.publish()
    return Ggml(PACKAGE, VERSION, folder)


def _unpack(archive: Path, folder: Path) -> Path:
    """Take ggml out of the archive, and return its folder."""
    with tarfile.open(archive) as opened:
        wanted = [member for member in opened if member.name.startswith(f"{_SOURCES}/{_GGML}")]
        opened.extractall(folder, wanted, filter="data")
    return folder / _SOURCES / _GGML


def _compile(folder: Path, architecture: str) -> None:
    """Compile with llama.cpp's own defaults, except for threads and the names of processors."""
    options = {
        "CMAKE_SYSTEM_NAME": "Linux",
        "CMAKE_SYSTEM_PROCESSOR": "aarch64",
        "CMAKE_C_COMPILER": COMPILER.replace("g++", "gcc"),
        "CMAKE_CXX_COMPILER": COMPILER,
        "CMAKE_BUILD_TYPE": "Release",
        "BUILD_SHARED_LIBS": "OFF",
        "GGML_NATIVE": "OFF",
        "GGML_CPU_ARM_ARCH": architecture,
        "GGML_LLAMAFILE": "ON",
        "GGML_OPENMP": "OFF",  # one thread is counted
    }
    words = [f"-D{name}={value}" for name, value in options.items()]
    build = str(folder / "build")
    _run(["cmake", "-S", str(folder), "-B", build, *words])
    _run(["cmake", "--build", build, "--target", "ggml-cpu", "--parallel", str(os.cpu_count() or 1)])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        problem = next((line for line in lines if "error" in line.lower()), "no message")
        raise HeliumEdgeError(f"ggml cannot be compiled: {problem}")


def _archive() -> Path:
    """The archive of sources in the cache folder, where it was put by hand or is now put by pip."""
    path = cache_folder() / f"{_SOURCES}.tar.gz"
    if not path.is_file():
        command = [
            *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--no-deps"),
            *("--no-binary=:all:", "--dest", str(path.parent), f"{PACKAGE}=={VERSION}"),
        ]
        done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
        if done.returncode or not path.is_file():
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise MissingToolError(
                f"pip cannot download the sources of {PACKAGE} {VERSION}: {lines[-1]}",
                hint=f"this needs the network once; an archive that is put into {path.parent} is taken from there",
            )
    return path
