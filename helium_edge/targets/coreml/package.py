"""Makes CoreML packages reproducible: the same input gives the same bytes.

ExecuTorch and coremltools put random UUIDs into a package, its manifest and the key under which it lies in the
`.pte`. Phones keep compiled models under the package's identifier, so that one is a hash of the content here: two
exports never share a cache entry, the same export always does.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

_NAMESPACE = uuid.UUID("6e0a8f52-9d38-5c6b-8a3e-4f2f1f3c7d10")
_CHUNK = 1 << 22


@contextlib.contextmanager
def reproducible_packages() -> Iterator[None]:
    """While the block runs, ExecuTorch's CoreML backend writes reproducible packages.

    There is no option for it, so two names of its module are replaced: the source of UUIDs, and the function that
    turns a finished package into bytes.
    """
    from executorch.backends.apple.coreml import executorchcoreml
    from executorch.backends.apple.coreml.compiler import coreml_preprocess

    numbers = itertools.count()

    def flatten(path: str) -> bytes | None:
        make_reproducible(Path(path))
        result: bytes | None = executorchcoreml.flatten_directory_contents(path)
        return result

    fixed_uuid = SimpleNamespace(uuid4=lambda: uuid.uuid5(_NAMESPACE, str(next(numbers))))
    with (
        mock.patch.object(coreml_preprocess, "uuid", fixed_uuid),
        mock.patch.object(
            coreml_preprocess, "executorchcoreml", SimpleNamespace(flatten_directory_contents=flatten)
        ),
    ):
        yield


def make_reproducible(folder: Path) -> None:
    """Rewrite what is random in a package that is about to become bytes.

    Args:
        folder: Holds `model.mlpackage` and ExecuTorch's `metadata.json`.
    """
    package = folder / "model.mlpackage"
    _rewrite_manifest(package / "Manifest.json")
    _rewrite_specification(package / "Data" / "com.apple.CoreML" / "model.mlmodel")
    for debug_file in (folder / "debug_info.json", package / "executorch_debug_handle_mapping.json"):
        debug_file.unlink(missing_ok=True)  # only for profiling; as large as the program itself
    metadata_file = folder / "metadata.json"
    metadata = json.loads(metadata_file.read_text(encoding="utf-8"))
    metadata["identifier"] = f"helium_edge_{_hash_tree(package)[:32]}"
    metadata_file.write_text(json.dumps(metadata), encoding="utf-8")


def _rewrite_manifest(path: Path) -> None:
    """Name the items of a package by UUIDs derived from what they are."""
    manifest = json.loads(path.read_text(encoding="utf-8"))
    items = manifest["itemInfoEntries"]
    names = {old: str(uuid.uuid5(_NAMESPACE, item["path"])) for old, item in items.items()}
    manifest["itemInfoEntries"] = {names[old]: item for old, item in items.items()}
    manifest["rootModelIdentifier"] = names[manifest["rootModelIdentifier"]]
    path.write_text(json.dumps(manifest, indent=4, sort_keys=True), encoding="utf-8")


def _rewrite_specification(path: Path) -> None:
    """Serialize the model again with its maps in order."""
    from coremltools.proto import Model_pb2

    model = Model_pb2.Model()
    model.ParseFromString(path.read_bytes())
    path.write_bytes(model.SerializeToString(deterministic=True))


def _hash_tree(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(folder).as_posix()}:{path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
    return digest.hexdigest()
