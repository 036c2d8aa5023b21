"""The runtimes' libraries for ARM64, from the wheels of the same releases that are installed here."""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from helium_edge.durable import PartialFolder
from helium_edge.errors import MissingToolError

_PLATFORMS = (
    "manylinux_2_28_aarch64",
    "manylinux_2_27_aarch64",
    "manylinux_2_17_aarch64",
    "manylinux2014_aarch64",
)

_PARTS = {
    "executorch": ("executorch/lib/", "executorch/include/"),
    "onnxruntime": ("onnxruntime/capi/libonnxruntime.so.",),
}
"""What is taken out of each wheel: neither needs Python or torch."""

_EXECUTORCH_LIBRARIES = (
    "executorch",
    "executorch_kernels_optimized",
    "executorch_kernels_quantized",
    "executorch_backend_xnnpack",
    "executorch_threadpool",
)


@dataclass(frozen=True)
class Library:
    """A runtime for ARM64.

    Args:
        package: `executorch` or `onnxruntime`.
        version: The release.
        folder: Where the parts of its wheel lie.
    """

    package: str
    version: str
    folder: Path

    def source(self, kind: str) -> str:
        """Name of the source of a program of ours for it."""
        return f"{kind}_{'onnx' if self.package == 'onnxruntime' else 'executorch'}.cpp"

    def compiler_arguments(self) -> list[str]:
        """What the compiler needs beside the source."""
        if self.package == "onnxruntime":
            return ["-ldl"]
        root = self.folder / "executorch"
        return [
            *("-isystem", str(root / "include")),
            *("-isystem", str(root / "include/executorch/runtime/core/portable_type/c10")),
            "-DC10_USING_CUSTOM_GENERATED_MACROS",
            "-DET_EVENT_TRACER_ENABLED",  # as the library was built: it decides the layout of its classes
            f"-L{root / 'lib'}",
            f"-Wl,-rpath,{root / 'lib'}",
            "-Wl,--no-as-needed",  # kernels and backends register themselves, nothing calls them by name
            *(f"-l{name}" for name in _EXECUTORCH_LIBRARIES),
            "-Wl,--allow-shlib-undefined",
        ]

    def program_arguments(self) -> list[str]:
        """What the program needs after its script, rows, output and bundle."""
        if self.package != "onnxruntime":
            return []
        return [str(next(self.folder.glob("onnxruntime/capi/libonnxruntime.so.*")))]


def library_folder(package: str) -> Path:
    """Where the libraries of the installed release lie once they are fetched."""
    return cache_folder() / f"{package}-{_version(package)}"


def _version(package: str) -> str:
    return importlib.metadata.version(package).partition("+")[0]


def fetch_library(package: str) -> Library:
    """The libraries of the installed release for ARM64; downloaded with pip once, then from the cache.

    Raises:
        MissingToolError: The wheel cannot be downloaded or is damaged.
    """
    version, folder = _version(package), library_folder(package)
    if not folder.is_dir():
        wheel = _wheel(package, version)
        with PartialFolder(folder, shown=str(folder), activity="download") as partial:
            unpack(wheel, partial.path, _PARTS[package])
            partial.publish()
        wheel.unlink(missing_ok=True)
    return Library(package, version, folder)


def cache_folder() -> Path:
    """Where libraries and programs are kept, created when needed."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    folder = root / "helium-edge" / "arm64"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def unpack(wheel: Path, folder: Path, prefixes: tuple[str, ...]) -> None:
    """Take the files below `prefixes` out of a wheel, each checked against the wheel's own list.

    Raises:
        MissingToolError: Not a wheel, nothing below a prefix, or other bytes than listed.
    """
    root = folder.resolve()
    try:
        with zipfile.ZipFile(wheel) as archive:
            hashes = _listed_hashes(archive)
            for prefix in prefixes:
                names = [name for name in archive.namelist() if name.startswith(prefix) and name[-1] != "/"]
                if not names:
                    raise _damaged(wheel, f"nothing below {prefix}")
                for name in names:
                    data = archive.read(name)
                    if hashes.get(name) != hashlib.sha256(data).digest():
                        raise _damaged(wheel, f"{name} is not as listed")
                    path = (root / name).resolve()
                    if root not in path.parents:
                        raise _damaged(wheel, f"{name} leaves the folder")
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(data)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise _damaged(wheel, str(error)) from error


def _listed_hashes(archive: zipfile.ZipFile) -> dict[str, bytes]:
    record = next((name for name in archive.namelist() if name.endswith(".dist-info/RECORD")), "RECORD")
    hashes = {}
    for name, value, _ in csv.reader(archive.read(record).decode("utf-8").splitlines()):
        algorithm, _, digest = value.partition("=")
        if algorithm == "sha256":
            hashes[name] = base64.urlsafe_b64decode(digest + "=" * (-len(digest) % 4))
    return hashes


def _damaged(wheel: Path, what: str) -> MissingToolError:
    return MissingToolError(f"{wheel.name}: not a usable wheel: {what}", hint=f"delete it from {wheel.parent}")


def _wheel(package: str, version: str) -> Path:
    """The wheel in the cache folder, where it was put by hand or is now put by pip."""
    folder = cache_folder()
    pattern = f"{package}-{version}-*aarch64.whl"
    present = sorted(folder.glob(pattern))
    if present:
        return present[0]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [
        *(sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"),
        *("--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python),
        *(word for platform in _PLATFORMS for word in ("--platform", platform)),
        *("--dest", str(folder), f"{package}=={version}"),
    ]
    done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    present = sorted(folder.glob(pattern))
    if done.returncode or not present:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise MissingToolError(
            f"pip cannot download the ARM64 wheel of {package} {version}: {lines[-1]}",
            hint=f"this needs the network once; a wheel that is put into {folder} is taken from there",
        )
    return present[0]
