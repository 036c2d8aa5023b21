from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.checkpoint.reader import MAX_INDEX_BYTES
from tests.helpers.checkpoints import random_weights, tiny_config
from tests.unit.checkpoint.support import FIRST, INDEX, NORM, SECOND, refusal


def edit_index(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def test_shards_are_read(sharded: Path) -> None:
    checkpoint = open_checkpoint(str(sharded))
    assert checkpoint.weight_files == (INDEX, FIRST, SECOND)
    assert {info.file for info in checkpoint.tensors.values()} == {FIRST, SECOND}


@pytest.mark.parametrize(
    "file",
    [
        "../model.safetensors", "/etc/model.safetensors", "sub/x.safetensors", "..", "", ".", "x\\y.safetensors",
        "C:x.safetensors", "model.bin", "a\0.safetensors", "a\n.safetensors", "x" * 300 + ".safetensors", 7, None,
        ["model.safetensors"],
    ],
)  # fmt: skip
def test_an_index_cannot_leave_the_folder(sharded: Path, file: Any) -> None:
    (sharded.parent / "model.safetensors").write_bytes((sharded / FIRST).read_bytes())
    edit_index(sharded, lambda listing: listing.update({NORM: file}))
    text = refusal(sharded)
    assert text.startswith(f"{INDEX}: tensor {NORM} is said to be in ")
    assert "allowed: the name of a .safetensors file in the same folder" in text


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "loop"])
def test_a_shard_must_be_a_file(sharded: Path, tmp_path: Path, kind: str) -> None:
    path = sharded / SECOND
    path.rename(tmp_path / SECOND)
    {
        "link": lambda: path.symlink_to(tmp_path / SECOND),
        "fifo": lambda: os.mkfifo(path),
        "folder": path.mkdir,
        "loop": lambda: path.symlink_to(path),
    }[kind]()
    expected = "is a link" if kind in ("link", "loop") else "is not a regular file"
    assert f"{path}: {expected}" in refusal(sharded)


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / SECOND).unlink()
    assert f"1 of 2 shards of {INDEX} are missing: {SECOND}" in refusal(sharded)


def test_a_tensor_in_the_wrong_shard(sharded: Path) -> None:
    edit_index(sharded, lambda listing: listing.update({NORM: FIRST}))
    assert f"{SECOND}: tensor {NORM} should be in {FIRST} according to {INDEX}" in refusal(sharded)


def test_a_listed_tensor_that_no_shard_holds(sharded: Path) -> None:
    edit_index(sharded, lambda listing: listing.update({"x.weight": SECOND}))
    assert f"{SECOND}: does not hold what {INDEX} lists: x.weight" in refusal(sharded)


def test_a_tensor_that_is_not_listed(sharded: Path) -> None:
    edit_index(sharded, lambda listing: listing.pop(NORM))
    assert f"{SECOND}: tensor {NORM} is not listed in {INDEX}" in refusal(sharded)


def test_a_tensor_in_two_shards(sharded: Path) -> None:
    weights = random_weights(tiny_config())
    names = [name for name in weights if open_checkpoint(str(sharded)).tensors[name].file == FIRST]
    from safetensors.torch import save_file

    save_file({name: weights[name] for name in [*names, NORM]}, sharded / FIRST)
    assert f"{FIRST} and {SECOND}: tensor {NORM} is in both" in refusal(sharded)


def test_a_tensor_listed_twice(sharded: Path) -> None:
    text = (sharded / INDEX).read_text()
    (sharded / INDEX).write_text(text.replace(f'"{NORM}":', f'"{NORM}": "{FIRST}", "{NORM}":'))
    assert f"{INDEX}: not readable as JSON: the key '{NORM}' stands twice" in refusal(sharded)


def test_a_wrong_total_size_is_ignored(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    (sharded / INDEX).write_text(json.dumps(index | {"metadata": {"total_size": 1}}))
    assert open_checkpoint(str(sharded)).tensors


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not readable as JSON"),
        (b'{"weight_map": {', "not readable as JSON"),
        (b"[" * 200_000, "not readable as JSON"),
        (b'"\xff"', "not readable as JSON"),
        (b"[]", "must be an object"),
        (b"{}", "has no weight_map"),
        (b'{"weight_map": {}}', "has no weight_map"),
        (b'{"weight_map": ["x"]}', "has no weight_map"),
        (b" " * (MAX_INDEX_BYTES + 1), "are too many"),
    ],
    ids=["empty", "cut", "deep", "utf8", "list", "absent", "no-entry", "wrong-type", "large"],
)
def test_a_malformed_index(sharded: Path, content: bytes, expected: str) -> None:
    (sharded / INDEX).write_bytes(content)
    text = refusal(sharded)
    assert text.startswith(f"{INDEX}: ")
    assert expected in text
