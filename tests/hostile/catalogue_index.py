"""Class 2, the index of shards; and, for all files of a checkpoint, what a file is."""

from __future__ import annotations

import os
from typing import Any

from tests.hostile.case import CATALOGUE, INDEX, NORM, OK, SHARDS, SINGLE, Sandbox
from tests.hostile.catalogue_weights import FILES

LISTING = "2. Index of shards"
add = CATALOGUE.add


def _kind(what: str, make: Any, *says: str, file: str = SINGLE, shards: int = 1) -> None:
    @add(FILES if shards == 1 else LISTING, what, file, *says)
    def _(box: Sandbox) -> None:
        path = box.checkpoint(shards=shards) / file
        path.rename(box.root / "moved")
        make(path, box.root / "moved")


def _symlink(path: Any, moved: Any) -> None:
    path.symlink_to(moved)


def _device(path: Any, moved: Any) -> None:
    path.symlink_to("/dev/zero")


def _fifo(path: Any, moved: Any) -> None:
    os.mkfifo(path)


def _folder(path: Any, moved: Any) -> None:
    path.mkdir()


_KINDS = {
    "a symbolic link": (_symlink, "is a link"),
    "a link to a device": (_device, "is a link"),
    "a FIFO": (_fifo, "not a regular file"),
    "a folder": (_folder, "not a regular file"),
}
for _what, (_make, _says) in _KINDS.items():
    for _file in (SINGLE, "config.json", "tokenizer.json", "generation_config.json"):
        if _file != "generation_config.json":
            _kind(f"{_file} is {_what}", _make, _says, file=_file)


# -- the index


def _index(what: str, change: Any, *says: str, code: int = 3, note: str = "") -> None:
    @add(LISTING, what, *(says or (() if code == OK else (INDEX,))), code=code, note=note)
    def _(box: Sandbox) -> None:
        box.checkpoint(shards=2)
        if callable(change):
            box.edit(INDEX, change)
        else:
            box.write(INDEX, change)


def _place(file: Any, name: str = NORM) -> Any:
    return lambda data: data["weight_map"].update({name: file})


_index("two sound shards", lambda data: None, code=OK)
_index("empty file", b"", INDEX, "not readable as JSON")
_index("cut", b'{"weight_map": {', INDEX, "not readable as JSON")
_index("100,000 lists deep", b"[" * 100_000, INDEX, "not readable as JSON")
_index("3 MiB", b" " * (3 << 20), INDEX, "too many")
_index("no weight_map", {}, INDEX, "weight_map")
_index("an empty weight_map", {"weight_map": {}}, INDEX, "weight_map")
_index("weight_map is a list", {"weight_map": [1]}, INDEX, "weight_map")
for _path in (
    "../outside.safetensors",
    "/etc/outside.safetensors",
    "sub/x.safetensors",
    "..\\x.safetensors",
    "C:x.safetensors",
    "x.bin",
    "",
    "\0.safetensors",
    "x" * 300 + ".safetensors",
):
    _index(f"a shard named {_path[:40]!r}".replace("\\x00", "NUL"), _place(_path), INDEX, NORM, "same folder")
_index("a shard that is a number", _place(7), INDEX, NORM, "same folder")
_index("a tensor in another shard than listed", _place(SHARDS[0]), SHARDS[1], NORM, "should be in")
_index("a tensor that no shard holds", _place(SHARDS[0], "ghost"), SHARDS[0], "ghost")
_index("a tensor that is not listed", lambda data: data["weight_map"].pop(NORM), SHARDS[1], NORM, "not listed")
_index("a shard that is absent", _place("model-00003-of-00003.safetensors"), "1 of 3 shards", "model-00003")
_index("total_size is wrong", lambda data: data["metadata"].update(total_size=1), code=OK, note="it is not used")
_index("total_size is 10^400", lambda data: data["metadata"].update(total_size=10**400), "metadata.total_size")


@add(LISTING, "a tensor listed twice", INDEX, NORM, "stands twice")
def _listed_twice(box: Sandbox) -> None:
    text = (box.checkpoint(shards=2) / INDEX).read_text()
    box.write(INDEX, text.replace(f'"{NORM}":', f'"{NORM}": "{SHARDS[0]}", "{NORM}":'))


@add(LISTING, "a tensor in two shards", *SHARDS, NORM, "is in both")
def _in_both(box: Sandbox) -> None:
    box.checkpoint(shards=2)
    header, data = box.header(SHARDS[0])
    extra = {"dtype": "BF16", "shape": [64], "data_offsets": [len(data), len(data) + 128]}
    box.raw(header | {NORM: extra}, data + bytes(128), SHARDS[0])


@add(LISTING, "two shards swapped", SHARDS[0], "should be in")
def _swapped(box: Sandbox) -> None:
    folder = box.checkpoint(shards=2)
    (folder / SHARDS[0]).rename(folder / "x")
    (folder / SHARDS[1]).rename(folder / SHARDS[0])
    (folder / "x").rename(folder / SHARDS[1])


@add(LISTING, "a shard is missing", "1 of 2 shards", SHARDS[1])
def _shard_missing(box: Sandbox) -> None:
    (box.checkpoint(shards=2) / SHARDS[1]).unlink()


@add(LISTING, "a shard is cut", SHARDS[1], "is truncated, tensor ")
def _shard_cut(box: Sandbox) -> None:
    content = (box.checkpoint(shards=2) / SHARDS[1]).read_bytes()
    box.write(SHARDS[1], content[:-1])


@add(LISTING, "single file and index at once", SINGLE, INDEX, "stale")
def _both(box: Sandbox) -> None:
    box.checkpoint(shards=2)
    box.checkpoint()


for _what, (_make, _says) in _KINDS.items():
    _kind(f"a shard is {_what}", _make, _says, file=SHARDS[1], shards=2)
    _kind(f"the index is {_what}", _make, _says, file=INDEX, shards=2)
