"""Takes the classes and libraries that check.sh needs out of downloaded packages: `unpack.py DOWNLOADS OUT`."""

from __future__ import annotations

import platform
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

NATIVE = {"x86_64": "linux-x64", "aarch64": "linux-aarch64"}


def main(downloads: Path, out: Path) -> None:
    """Unpack everything."""
    kotlin(next(downloads.glob("kotlin_jupyter_kernel-*.whl")), out / "kotlin")
    onnxruntime(next(downloads.glob("pyserini-*.tar.gz")), out)


def kotlin(wheel: Path, out: Path) -> None:
    """The compiler and the libraries that it needs, under names without versions."""
    out.mkdir(parents=True)
    wanted = {
        "kotlin-jupyter-kernel-": "compiler.jar",
        "kotlin-stdlib-": "kotlin-stdlib.jar",
        "kotlin-reflect-": "kotlin-reflect.jar",
    }
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            target = next(
                (wanted[start] for start in wanted if Path(name).name.startswith(start) and name.endswith(".jar")),
                None,
            )
            if target:
                with archive.open(name) as source, (out / target).open("wb") as file:
                    shutil.copyfileobj(source, file)


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
