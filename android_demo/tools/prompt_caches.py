"""Saved prompt caches: written by the Python host for Kotlin to read, and those of Kotlin read back.

`python prompt_caches.py FOLDER` reads what the Kotlin tests wrote to FOLDER/written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from helium_edge import LanguageModel, load
from helium_edge.bundle import manifest_hash
from helium_edge.errors import HeliumEdgeError
from helium_edge.runtime.prompt_cache import load_prompt_cache, save_prompt_cache
from helium_edge.runtime.runner import check_seek
from helium_edge.runtime.token_cache import TokenCache

BUNDLE = "5e" * 32
SLOTS, KV_HEADS, HEAD_DIM, VOCAB = 16, 2, 3, 50
SHAPES: dict[str, tuple[str, int, bool]] = {
    # Twelve layers, because names are sorted as texts.
    "float32": ("float32", 12, True),
    "float16": ("float16", 2, False),
    "int8": ("int8", 3, True),
}
"""Type, layers, and whether buffers have a dimension of the batch."""


class Buffers:
    """A runner that has a cache and runs nothing."""

    vocab_size, cache_len = VOCAB, SLOTS

    def __init__(self, dtype: str, layers: int, batched: bool) -> None:
        shape = (1, KV_HEADS, SLOTS, HEAD_DIM) if batched else (KV_HEADS, SLOTS, HEAD_DIM)
        self.cache_buffers = [np.zeros(shape, dtype) for _ in range(2 * layers)]
        self.position = 0

    def reset(self) -> None:
        self.position = 0

    def seek(self, position: int) -> None:
        check_seek(position, self.cache_len)
        self.position = position

    def prefill(self, tokens: Any) -> Any:
        raise NotImplementedError

    decode = prefill


def random_cache(name: str) -> TokenCache:
    """Any bits, those of NaN among them, in the slots of seven tokens; ones behind them."""
    rng = np.random.default_rng(sorted(SHAPES).index(name))
    runner = Buffers(*SHAPES[name])
    for buffer in runner.cache_buffers:
        buffer.view(np.uint8)[...] = rng.integers(0, 256, buffer.view(np.uint8).shape)
    cache = TokenCache(runner)
    cache.restore(rng.integers(0, VOCAB, 7).tolist())
    return cache


def write(folder: Path, bundles: dict[str, Path]) -> None:
    """Write every file, and what is in it."""
    folder.mkdir(exist_ok=True)
    described = []
    for name, (dtype, layers, batched) in SHAPES.items():
        cache = random_cache(name)
        save_prompt_cache(folder / f"{name}.safetensors", cache, BUNDLE)
        contents = [buffer.tobytes().hex() for buffer in cache.cache_buffers]
        shape = {"name": name, "dtype": dtype, "layers": layers, "batched": batched}
        described.append({**shape, "ids": list(cache.ids), "buffers": contents})
    save(folder / "caches.json", described)
    save(folder / "hostile.json", list(hostile(folder)))
    save(folder / "bundles.json", [of_bundle(name, path, folder) for name, path in bundles.items()])


def save(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


# -- files that must be refused


def hostile(folder: Path) -> Iterator[dict[str, Any]]:
    """The int8 cache changed in one place each, with the verdict of the Python host."""
    whole = (folder / "int8.safetensors").read_bytes()
    (folder / "hostile").mkdir(exist_ok=True)
    for index, (what, data) in enumerate(changed_files(whole)):
        path = folder / "hostile" / f"{index}.safetensors"
        path.write_bytes(data)
        cache = TokenCache(Buffers(*SHAPES["int8"]))
        try:
            load_prompt_cache(path, cache, BUNDLE)
            verdict = "ok"
        except HeliumEdgeError as error:
            verdict = error.message
        yield {"what": what, "file": f"hostile/{index}.safetensors", "verdict": verdict}


def changed_files(whole: bytes) -> Iterator[tuple[str, bytes]]:
    length = int.from_bytes(whole[:8], "little")
    header, data = whole[8 : 8 + length], whole[8 + length :]

    def framed(text: bytes) -> bytes:
        return len(text).to_bytes(8, "little") + text + data

    yield "as it was", whole
    for cut in (0, 7, 8, 9, 8 + length - 1, 8 + length, len(whole) - 1):
        yield f"cut at {cut}", whole[:cut]
    yield "a byte more", whole + b"\0"
    yield "text", b"no cache at all, but text of some length"
    for declared in (len(whole), 1 << 31, 1 << 62, (1 << 64) - 1, 0, length - 1):
        yield f"a header of {declared} bytes", declared.to_bytes(8, "little") + whole[8:]
    yield "a header of three MiB", framed(header + b" " * (3 << 20))
    for what, text in (
        ("no JSON", b"x" * length),
        ("a list", b"[]"),
        ("nested deeply", b"[" * 100_000),
        ("no UTF-8", header.replace(b"ids", b"id\xff")),
        (
            "a key twice",
            header.replace(b'{"__meta', b'{"ids":{"dtype":"I32","shape":[7],"data_offsets":[0,28]},"__meta'),
        ),
    ):
        yield what, framed(text)
    for token in (-1, VOCAB, (1 << 31) - 1):
        # The ids come first in a file of int8.
        yield f"an id of {token}", whole[: 8 + length] + token.to_bytes(4, "little", signed=True) + data[4:]
    for what, change in changed_headers():
        document = json.loads(header)
        change(document)
        yield what, framed(json.dumps(document).encode())


def changed_headers() -> Iterator[tuple[str, Any]]:
    def entry(name: str, **values: Any) -> Any:
        return lambda document: document[name].update(values)

    def metadata(**values: Any) -> Any:
        return lambda document: document["__metadata__"].update(values)

    yield "another order of keys", lambda document: document.update({"ids": document.pop("ids")})
    yield "further metadata", metadata(note="x")
    yield "no metadata", lambda document: document.pop("__metadata__")
    yield "metadata that is no text", metadata(note=5)
    yield "another format", metadata(format="pt")
    yield "another version", metadata(version="2")
    yield "another bundle", metadata(bundle="00" * 32)
    yield "offsets that overlap", entry("layers.0.value", data_offsets=[28, 70])
    yield "offsets in a wrong order", entry("layers.0.value", data_offsets=[112, 70])
    yield "an offset below 0", entry("layers.0.value", data_offsets=[-42, 0])
    yield "an offset behind the end", entry("layers.2.value", data_offsets=[238, 1 << 40])
    yield "an offset that is no whole number", entry("layers.0.value", data_offsets=[70.5, 112])
    yield "an offset of 2**70", entry("layers.0.value", data_offsets=[70, 1 << 70])
    yield "three offsets", entry("layers.0.value", data_offsets=[70, 112, 112])
    yield "another type", entry("layers.0.key", dtype="U8")
    yield "an unknown type", entry("layers.0.key", dtype="I9")
    yield "another shape", entry("layers.0.key", shape=[7, 2, 3])
    yield "a shape of other bytes", entry("layers.0.key", shape=[2, 7, 4])
    yield (
        "other bytes than the shapes, without a hole",
        lambda document: (
            document["layers.0.key"].update(data_offsets=[28, 60]),
            document["layers.0.value"].update(data_offsets=[60, 112]),
        ),
    )
    yield (
        "a shape whose bytes overflow to none",
        lambda document: document.update(
            {"layers.9.key": {"dtype": "I8", "shape": [1 << 32, 1 << 32], "data_offsets": [280, 280]}}
        ),
    )
    yield "a shape that overflows", entry("layers.0.key", shape=[1 << 32, 1 << 32, 42])
    yield "a dimension below 0", entry("layers.0.key", shape=[-2, -7, 3])
    yield "no shape", lambda document: document["layers.0.key"].pop("shape")
    yield "an entry that is text", lambda document: document.update({"layers.0.key": "x"})
    yield "ids of another type", entry("ids", dtype="F32")
    yield "ids of two dimensions", entry("ids", shape=[7, 1])
    yield (
        "a tensor of another name",
        lambda document: document.update({"layers.9.key": document.pop("layers.0.key")}),
    )
    yield (
        "a tensor without bytes more",
        lambda document: document.update(
            {"layers.9.key": {"dtype": "I8", "shape": [0, 7, 3], "data_offsets": [280, 280]}}
        ),
    )


# -- files of bundles that run


def model_of(path: Path) -> LanguageModel:
    model = load(path)
    assert isinstance(model, LanguageModel)
    return model


def of_bundle(name: str, path: Path, folder: Path) -> dict[str, Any]:
    """The cache of a prompt, and the logits of the next two tokens in a process that has only the file."""
    model = model_of(path)
    ids = model.ids("Les modèles de langue sont des réseaux")
    model.token_cache.reset()
    model.token_cache.prefill(ids)
    model.save_cache(folder / f"bundle-{name}.safetensors")
    other = model_of(path)
    other.load_cache(folder / f"bundle-{name}.safetensors")
    rows = [bits_of(other.token_cache.decode(token)) for token in (300, 301)]
    return {"name": name, "sha256": manifest_hash(model.bundle), "ids": ids, "next": [300, 301], "logits": rows}


def bits_of(row: npt.NDArray[Any]) -> list[int]:
    bits: list[int] = np.ascontiguousarray(row, np.float32).view(np.int32).reshape(-1).tolist()
    return bits


def read_back(folder: Path) -> None:
    """Compare the files that the Kotlin host wrote with those of this one, by this one's reader.

    Raises:
        SystemExit: One differs, or is missing.
    """
    read = 0
    for name in SHAPES:
        found = TokenCache(Buffers(*SHAPES[name]))
        load_prompt_cache(folder / "written" / f"{name}.safetensors", found, BUNDLE)
        compare(name, found, random_cache(name))
        read += 1
    for case in json.loads((folder / "prompt-caches" / "bundles.json").read_text(encoding="utf-8")):
        path = folder / "bundles" / case["name"]
        found, expected = model_of(path), model_of(path)
        found.load_cache(folder / "written" / f"bundle-{case['name']}.safetensors")
        expected.load_cache(folder / "prompt-caches" / f"bundle-{case['name']}.safetensors")
        compare(case["name"], found.token_cache, expected.token_cache)
        read += 1
    sys.stdout.write(f"prompt caches of Kotlin read by Python: {read} equal\n")


def compare(name: str, found: TokenCache, expected: TokenCache) -> None:
    count = len(expected.ids)
    same = list(found.ids) == list(expected.ids) and all(
        np.array_equal(a[..., :count, :].copy().view(np.uint8), b[..., :count, :].copy().view(np.uint8))
        for a, b in zip(found.cache_buffers, expected.cache_buffers, strict=True)
    )
    if not same:
        raise SystemExit(f"the prompt cache {name} that Kotlin wrote has other contents")


if __name__ == "__main__":
    read_back(Path(sys.argv[1]))
