"""Class 1, files of weights."""

from __future__ import annotations

import json
import os
import struct
from typing import Any

import torch

from tests.hostile.case import (
    CATALOGUE,
    EMBEDDING,
    HEAD,
    NORM,
    OK,
    PARITY,
    SINGLE,
    Sandbox,
)

FILES = "1. Weight files"
UP = "model.layers.0.mlp.up_proj.weight"
add = CATALOGUE.add


# -- class 1: the file as a whole


@add(FILES, "the folder does not exist", "nowhere", "no such folder")
def _absent(box: Sandbox) -> list[str]:
    return box.export(model="nowhere")


@add(FILES, "the folder is empty", CONFIG := "config.json", "no such file")
def _empty_folder(box: Sandbox) -> None:
    box.model.mkdir()


@add(FILES, "no weights beside config.json", SINGLE)
def _no_weights(box: Sandbox) -> None:
    box.checkpoint()
    (box.model / SINGLE).unlink()


@add(FILES, "pickle in place of safetensors", "pytorch_model.bin", "never opened")
def _pickle(box: Sandbox) -> None:
    box.checkpoint()
    (box.model / SINGLE).rename(box.model / "pytorch_model.bin")


@add(FILES, "a pickle that says it is safetensors", SINGLE, "no safetensors file")
def _pickle_inside(box: Sandbox) -> None:
    box.checkpoint()
    box.write(SINGLE, b"\x80\x04\x95cos\nsystem\n(S'touch pwned'\ntR." + bytes(64))


def _cut(name: str, says: str) -> None:
    @add(FILES, f"cut {name}", SINGLE, says)
    def _(box: Sandbox) -> None:
        content = (box.checkpoint() / SINGLE).read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        ends = {
            "at byte 0": 0,
            "at byte 7": 7,
            "at byte 8": 8,
            "one byte before the end of the header": header - 1,
            "after the header": header,
            "in the middle": len(content) // 2,
            "one byte before the end": len(content) - 1,
        }
        box.write(SINGLE, content[: ends[name]])


for _name in ("at byte 0", "at byte 7"):
    _cut(_name, "is no safetensors file")
for _name in ("at byte 8", "one byte before the end of the header"):
    _cut(_name, "is truncated, its header ends")
for _name in ("after the header", "in the middle", "one byte before the end"):
    _cut(_name, "is truncated, tensor ")


@add(FILES, "one byte too many at the end", SINGLE, "malformed safetensors file")
def _trailing(box: Sandbox) -> None:
    box.write(SINGLE, (box.checkpoint() / SINGLE).read_bytes() + b"\0")


def _length(value: int) -> None:
    @add(FILES, f"header length {value}", SINGLE, "header")
    def _(box: Sandbox) -> None:
        content = (box.checkpoint() / SINGLE).read_bytes()
        box.write(SINGLE, struct.pack("<Q", value) + content[8:])


for _value in (0, 4, 200 << 20, 2**63, 2**64 - 1):
    _length(_value)


@add(FILES, "a header of 1 TiB in a sparse file", SINGLE, "1099511627776")
def _sparse(box: Sandbox) -> None:
    box.checkpoint()
    with (box.model / SINGLE).open("r+b") as file:
        file.write(struct.pack("<Q", 1 << 40))
        file.truncate(1 << 41)


def _header(name: str, text: str | bytes, says: str) -> None:
    @add(FILES, f"header: {name}", SINGLE, says)
    def _(box: Sandbox) -> None:
        box.checkpoint()
        data = text if isinstance(text, bytes) else text.encode()
        box.write(SINGLE, struct.pack("<Q", len(data)) + data)


_header("not UTF-8", b"\xff\xfe{}", "not readable as JSON")
_header("100,000 lists deep", "[" * 100_000, "not readable as JSON")
_header("a list", "[]", "no JSON object")
_header("2 MiB of small lists", '{"a":[' + ",".join(["[]"] * 690_000) + "]}", "values are too many")
_header("3 MiB", " " * (3 << 20), "limit")
_header("no tensor at all", "{}", "the weights are 0 tensors")


def _entry(name: str, says: str, *, change: dict[str, Any]) -> None:
    @add(FILES, f"header: {name}", SINGLE, says)
    def _(box: Sandbox) -> None:
        box.checkpoint()
        header, data = box.header()
        box.raw(header | {NORM: header[NORM] | change}, data)


_MALFORMED = f"tensor {NORM} has a malformed header entry"
_entry("a negative size", _MALFORMED, change={"shape": [-64]})
_entry("a size of 2^64", _MALFORMED, change={"shape": [2**64]})
_entry("a shape that overflows", "malformed safetensors file", change={"shape": [2**62, 2**62]})
_entry("reversed offsets", _MALFORMED, change={"data_offsets": [128, 0]})
_entry("offsets as text", _MALFORMED, change={"data_offsets": ["0", "128"]})
_entry("a hole between tensors", "malformed safetensors file", change={"data_offsets": [0, 0]})
_entry("an unknown type", "malformed safetensors file", change={"dtype": "X9"})
_entry("a type that does not fit the size", "malformed safetensors file", change={"dtype": "F32"})


@add(FILES, "header: overlapping tensors", SINGLE, "malformed safetensors file")
def _overlap(box: Sandbox) -> None:
    box.checkpoint()
    header, data = box.header()
    begin, end = header[NORM]["data_offsets"]
    box.raw(header | {NORM: header[NORM] | {"data_offsets": [begin - 2, end - 2]}}, data)


@add(FILES, "header: metadata that are no strings", SINGLE, "malformed safetensors file")
def _metadata(box: Sandbox) -> None:
    box.checkpoint()
    header, data = box.header()
    box.raw(header | {"__metadata__": {"format": 1}}, data)


@add(FILES, "header: a tensor given twice", SINGLE, NORM, "stands twice")
def _twice(box: Sandbox) -> None:
    box.checkpoint()
    header, data = box.header()
    box.raw(json.dumps(header)[:-1] + f', "{NORM}": {json.dumps(header[NORM])}}}', data)


@add(FILES, "a flipped bit in the header", SINGLE)
def _flip_header(box: Sandbox) -> None:
    content = bytearray((box.checkpoint() / SINGLE).read_bytes())
    content[content.index(b"norm")] ^= 4
    box.write(SINGLE, bytes(content))


@add(FILES, "a flipped bit in the data", code=OK, note="a checkpoint holds no checksum of its data")
def _flip_data(box: Sandbox) -> None:
    content = bytearray((box.checkpoint() / SINGLE).read_bytes())
    content[-2] ^= 1
    box.write(SINGLE, bytes(content))


# -- class 1: names and types


def _extra_name(what: str, name: str, says: str) -> None:
    @add(FILES, f"an unknown tensor of the decoder whose name is {what}", SINGLE, "unexpected tensor", says)
    def _(box: Sandbox) -> None:
        _with_extra(box, f"model.{name}")

    @add(FILES, f"an unknown tensor outside the decoder whose name is {what}", code=OK, note=_IGNORED)
    def _(box: Sandbox) -> None:
        _with_extra(box, name)


_IGNORED = "it is ignored, as by transformers, and named in a warning"


def _with_extra(box: Sandbox, name: str) -> None:
    box.checkpoint()
    header, data = box.header()
    extra = {"dtype": "BF16", "shape": [1], "data_offsets": [len(data), len(data) + 2]}
    box.raw(header | {name: extra}, data + b"\0\0")


_extra_name("a path out of the folder", "../../x", "../../x")
_extra_name("an absolute path", "/etc/passwd", "/etc/passwd")
_extra_name("has a NUL", "a\0b", "a\\x00b")
_extra_name("an escape sequence of a terminal", "\x1b[31mred\x1b[0m", "\\x1b[31m")
_extra_name("an emoji", "🙂", "🙂")
_extra_name("10,000 characters long", "x" * 10_000, "x" * 70)


@add(FILES, "an unknown tensor of a further layer", SINGLE, "unexpected tensor", "num_hidden_layers = 2")
def _further_layer(box: Sandbox) -> None:
    _with_extra(box, "model.layers.2.mlp.up_proj.weight")


@add(FILES, "a saved RoPE buffer", code=OK, note="it follows from config.json; it is ignored and named")
def _buffer(box: Sandbox) -> None:
    box.tensor("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(8))


def _stored(dtype: str, code: int) -> None:
    says = () if code == OK else (SINGLE, NORM, "stored type not supported")

    @add(FILES, f"a tensor stored as {dtype}", *says, code=code)
    def _(box: Sandbox) -> None:
        kinds = {
            "BF16": torch.bfloat16,
            "F16": torch.float16,
            "F32": torch.float32,
            "F64": torch.float64,
            "F8_E4M3": torch.float8_e4m3fn,
            "I8": torch.int8,
            "BOOL": torch.bool,
        }
        box.tensor(NORM, torch.ones(64).to(kinds[dtype]))


for _dtype in ("BF16", "F16", "F32"):
    _stored(_dtype, OK)
for _dtype in ("F64", "F8_E4M3", "I8", "BOOL"):
    _stored(_dtype, 3)


# -- class 1: values


def _value(what: str, value: float, *says: str, name: str = UP) -> None:
    @add(FILES, what, *says, code=3 if says else OK)
    def _(box: Sandbox) -> list[str]:
        tensor = random_like(name)
        tensor[0, 0] = value
        box.tensor(name, tensor)
        return box.export(recipe="onnx-int4")


def random_like(name: str) -> torch.Tensor:
    from tests.helpers.checkpoints import random_weights, tiny_config

    return random_weights(tiny_config(), dtype=torch.float32)[name]


_value("a weight that is NaN", float("nan"), SINGLE, UP, "1 NaN or infinite")
_value("a weight that is infinite", float("-inf"), SINGLE, UP, "1 NaN or infinite")
_value("a NaN in the embedding", float("nan"), SINGLE, EMBEDDING, name=EMBEDDING)
_value("a NaN in the head", float("nan"), SINGLE, HEAD, name=HEAD)
_value("a subnormal weight", 1e-42)


@add(FILES, "a NaN in the gain of a norm", SINGLE, NORM, "1 NaN or infinite")
def _nan_norm(box: Sandbox) -> None:
    gain = torch.ones(64)
    gain[3] = float("nan")
    box.tensor(NORM, gain)


def _row(what: str, value: float, columns: int) -> None:
    @add(FILES, what, code=OK)
    def _(box: Sandbox) -> list[str]:
        tensor = random_like(UP)
        tensor[0, :columns] = value
        box.tensor(UP, tensor)
        return box.export(recipe="onnx-int4")


_row("a row of zeros", 0.0, 64)
_row("a group of zeros", 0.0, 32)
_row("a constant row", 0.5, 64)


@add(FILES, "weights of 1e38, whose products overflow", "golden trace", "infinite logits", code=PARITY)
def _huge(box: Sandbox) -> None:
    tensor = random_like(HEAD)
    tensor[:] = 1e38
    box.tensor(HEAD, tensor)


# -- class 1: shapes


def _shape(what: str, tensor: torch.Tensor | None, *says: str, name: str = UP) -> None:
    @add(FILES, what, SINGLE, name, *says)
    def _(box: Sandbox) -> None:
        box.tensor(name, tensor)


_shape("a missing tensor", None, "missing")
_shape("a transposed tensor", torch.ones(64, 96), "wrong shape")
_shape("a tensor of another rank", torch.ones(96 * 64), "wrong shape")
_shape("an empty tensor", torch.ones(0, 64), "wrong shape")
_shape("an embedding of more rows than vocab_size", torch.ones(161, 64), "vocab_size", name=EMBEDDING)
_shape("the head is missing though it is not tied", None, "tie_word_embeddings", name=HEAD)


@add(FILES, "a tied head that is stored and equal", code=OK)
def _tied_equal(box: Sandbox) -> None:
    from tests.helpers.checkpoints import random_weights, tiny_config

    embedding = random_weights(tiny_config(tie_word_embeddings=True))[EMBEDDING]
    box.tensor(HEAD, embedding.clone(), tie_word_embeddings=True)


@add(FILES, "a tied head that is absent", code=OK)
def _tied(box: Sandbox) -> None:
    box.checkpoint(tie_word_embeddings=True)


@add(FILES, "a tied head that is stored and differs", SINGLE, HEAD, EMBEDDING)
def _tied_other(box: Sandbox) -> None:
    box.tensor(HEAD, torch.ones(160, 64), tie_word_embeddings=True)


@add(FILES, "model.safetensors is a hard link", code=OK, note="a file like any other")
def _hardlink(box: Sandbox) -> None:
    path = box.checkpoint() / SINGLE
    os.link(path, box.root / "other name")


@add(FILES, "a pickle lies beside the weights", code=OK, note="it is left alone")
def _beside(box: Sandbox) -> None:
    box.checkpoint()
    box.write("pytorch_model.bin", b"\x80\x04.")


@add(FILES, "code lies beside the weights", code=OK, note="it is neither run nor copied")
def _code(box: Sandbox) -> None:
    box.checkpoint()
    box.write("modeling_helium.py", "raise SystemExit('ran')")
