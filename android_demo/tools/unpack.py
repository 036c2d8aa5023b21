"""Takes the classes and libraries that check.sh needs out of downloaded packages: `unpack.py DOWNLOADS OUT`."""

from __future__ import annotations

import platform
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

COMPILER = (
    "kotlin-compiler", "kotlin-stdlib", "kotlin-reflect", "kotlin-script-runtime", "kotlin-daemon-client",
    "kotlinx-coroutines-core-jvm", "annotations-13.0",
)  # fmt: skip
NATIVE = {"x86_64": "linux-x64", "aarch64": "linux-aarch64"}


def main(downloads: Path, out: Path) -> None:
    """Unpack everything."""
    kotlin(next(downloads.glob("kotlin-compiler-*.tgz")), out / "kotlin")
    # Bundletool carries R8, and the resources that it reads.
    (out / "r8.jar").write_bytes(member(next(downloads.glob("node-bundletool-*.tgz")), "package/bundletool.jar"))
    onnxruntime(next(downloads.glob("pyserini-*.tar.gz")), out)


def kotlin(package: Path, out: Path) -> None:
    """The compiler and the libraries that it runs on."""
    out.mkdir(parents=True)
    for name in COMPILER:
        (out / f"{name}.jar").write_bytes(member(package, f"package/lib/{name}.jar"))


def member(package: Path, name: str) -> bytes:
    """A file of an npm package."""
    with tarfile.open(package) as archive:
        source = archive.extractfile(name)
        assert source is not None
        return source.read()


def onnxruntime(sdist: Path, out: Path) -> None:
    """The classes `ai.onnxruntime`, and their native half for this processor."""
    native = f"ai/onnxruntime/native/{NATIVE[platform.machine()]}/libonnxruntime4j_jni.so"
    with tarfile.open(sdist) as outer, tempfile.TemporaryFile() as jar:
        member = next(entry for entry in outer if entry.name.endswith("-fatjar.jar"))
        source = outer.extractfile(member)
        assert source is not None
        shutil.copyfileobj(source, jar)
        with zipfile.ZipFile(jar) as archive:
            for name in archive.namelist():
                if name.startswith("ai/onnxruntime/") and name.endswith(".class"):
                    archive.extract(name, out / "ort")
            (out / "ort-native").mkdir()
            (out / "ort-native" / "libonnxruntime4j_jni.so").write_bytes(archive.read(native))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
