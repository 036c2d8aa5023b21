"""Flattened folders: ours are read by ExecuTorch, ExecuTorch's by us, and damaged ones are refused."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_edge.errors import BundleError
from helium_edge.mlpackage.flattened_folder import FlattenedFolder, folder_table
from helium_edge.runtime.quiet import quiet

FILES = {
    "a/b/one.bin": bytes(range(256)) * 3,
    "a/two.json": b'{"} quoted": "{"}',
    "empty": b"",
    "z \u00e9.txt": b"\0\0end\0",
}
NEEDS_EXECUTORCH = pytest.mark.skipif(importlib.util.find_spec("executorch") is None, reason="no executorch")


def flatten(files: dict[str, bytes], root: str = "root") -> bytes:
    table = folder_table({name: len(content) for name, content in files.items()}, root)
    return b"".join(files.values()) + table


def test_files_are_found_by_their_paths() -> None:
    folder = FlattenedFolder(memoryview(flatten(FILES)))
    assert {name: bytes(folder.file(name)) for name in FILES} == FILES


@NEEDS_EXECUTORCH
def test_executorch_unfolds_it(tmp_path: Path) -> None:
    with quiet():
        from executorch.backends.apple.coreml.executorchcoreml import unflatten_directory_contents
    assert unflatten_directory_contents(flatten(FILES), str(tmp_path))
    found = {
        path.relative_to(tmp_path / "root").as_posix(): path for path in tmp_path.rglob("*") if path.is_file()
    }
    assert {name: path.read_bytes() for name, path in found.items()} == FILES


@NEEDS_EXECUTORCH
def test_a_folder_of_executorch_is_read(tmp_path: Path) -> None:
    with quiet():
        from executorch.backends.apple.coreml.executorchcoreml import flatten_directory_contents
    files = {name: content for name, content in FILES.items() if content}  # of an empty file theirs dies
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    folder = FlattenedFolder(memoryview(flatten_directory_contents(str(tmp_path))))
    assert {name: bytes(folder.file(name)) for name in files} == files


@pytest.mark.parametrize("path", ["", "a", "a/b", "a/three", "a/two.json/x", "../empty", "/empty"])
def test_other_paths_are_refused(path: str) -> None:
    folder = FlattenedFolder(memoryview(flatten(FILES)))
    if path in ("a", "a/b"):  # a folder has no contents
        assert not len(folder.file(path))
        return
    with pytest.raises(BundleError, match="has no file"):
        folder.file(path)


def reversed_json(nodes: object) -> memoryview:
    return memoryview(b"12345678" + json.dumps({"nodes": nodes}).encode()[::-1])


@pytest.mark.parametrize(
    "region",
    [
        {"offset": 4, "size": 1 << 40},
        {"offset": -1, "size": 2},
        {"offset": 0, "size": -1},
        {"offset": "x"},
        None,
        {},
    ],
)
def test_a_file_outside_is_refused(region: object) -> None:
    nodes = [{"name": "f", "dataRegion": region}, {"name": "", "children": {"f": 0}}]
    with pytest.raises(BundleError, match="CoreML package"):
        FlattenedFolder(reversed_json(nodes)).file("f")


@pytest.mark.parametrize("nodes", [[], {}, None, [7], [{"children": {"f": 9}}], [{"children": [0]}]])
def test_a_broken_table_is_refused(nodes: object) -> None:
    with pytest.raises(BundleError, match="CoreML package"):
        FlattenedFolder(reversed_json(nodes)).file("f")


@pytest.mark.parametrize("data", [b"", b"x", b"}" * 100, b"[" * 200_000, b"\0" * 1000])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(BundleError, match="without a table"):
        FlattenedFolder(memoryview(data))


@given(st.integers(0, 2000), st.binary(min_size=1, max_size=3))
def test_damage_is_an_error_of_ours(place: int, damage: bytes) -> None:
    data = bytearray(flatten(FILES))
    place %= len(data)
    data[place : place + len(damage)] = damage
    try:
        folder = FlattenedFolder(memoryview(bytes(data)))
        for name in FILES:
            folder.file(name)
    except BundleError:
        pass
