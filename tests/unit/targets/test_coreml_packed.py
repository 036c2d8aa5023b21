"""What the packer writes into `weight.bin`, read back byte by byte: no coremltools is needed."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.mlpackage.weights_file import Blob, WeightsFile
from helium_edge.model.weights import matrix_names
from helium_edge.quant import QuantizedStore, QuantizedWeight
from helium_edge.recipe import Quantization
from helium_edge.targets.coreml.packed import PackedMatrix, PackedModel, Packer
from tests.helpers.checkpoints import make_checkpoint

QKV = [f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "qkv"]


def pack(folder: Path, scheme: str | None, ios: int, **changes: Any) -> tuple[PackedModel, QuantizedStore, bytes]:
    rule = {"match": ".*", "skip": True} if scheme is None else {"match": ".*", "scheme": scheme}
    checkpoint = open_checkpoint(str(make_checkpoint(folder / "c", **changes)))
    quantization = Quantization.model_validate_json(json.dumps({"rules": [rule]}))
    store = QuantizedStore(checkpoint, quantization, folder / "store")
    seen: list[str] = []
    with WeightsFile(folder / "weight.bin") as file:
        model = Packer(store, file, ios, seen.append).pack()
    assert seen == matrix_names(checkpoint.config)
    return model, store, (folder / "weight.bin").read_bytes()


def read(data: bytes, blob: Blob) -> np.ndarray[Any, Any]:
    _, code, size, start, unused = struct.unpack_from("<IIQQQ", data, blob.offset)
    assert code == {"float16": 1, "int8": 4, "int4": 8}[blob.dtype]
    raw = np.frombuffer(data, np.uint8, size, start)
    if blob.dtype == "int4":
        nibbles = np.stack([raw & 15, raw >> 4], axis=-1).reshape(-1)[: 2 * size - unused // 4]
        return ((nibbles.astype(np.int8) ^ 8) - 8).reshape(blob.shape)
    return raw.view({"float16": np.float16, "int8": np.int8}[blob.dtype]).reshape(blob.shape)


@pytest.mark.parametrize("scheme", ["int8", "int4-g32", "int4-g32-asym"])
def test_stacking_keeps_integers_and_scales(scheme: str, tmp_path: Path) -> None:
    model, store, data = pack(tmp_path, scheme, 18)
    (matrix,) = model.layers[0].qkv
    weights = [store.get(name) for name in QKV]
    shift = 8 if scheme.endswith("asym") else 0
    assert np.array_equal(read(data, matrix.weight) + shift, np.concatenate([weight.codes for weight in weights]))
    assert matrix.scales is not None
    scales = np.concatenate([weight.scales.half() for weight in weights])
    assert np.array_equal(read(data, matrix.scales), scales)
    if shift:
        assert matrix.points is not None
        points = np.concatenate([weight.zero_points for weight in weights])
        assert np.array_equal(read(data, matrix.points) + shift, points)
    else:
        assert matrix.points is None


def test_before_ios_18_scales_and_zero_points_are_vectors(tmp_path: Path) -> None:
    model, store, data = pack(tmp_path, "int8", 17)
    (matrix,) = model.layers[0].qkv
    assert matrix.scales is not None
    assert matrix.points is not None
    scales = np.concatenate([store.get(name).scales.half() for name in QKV])
    assert np.array_equal(read(data, matrix.scales), scales[:, 0])
    assert not read(data, matrix.points).any()
    assert matrix.points.shape == matrix.scales.shape == (len(scales),)


def test_unquantized_matrices(tmp_path: Path) -> None:
    model, store, data = pack(tmp_path, None, 18, attention_bias=True)
    (matrix,) = model.layers[0].qkv
    assert matrix.scales is None
    expected = np.concatenate([store.get(name).half() for name in QKV])
    assert np.array_equal(read(data, matrix.weight), expected)
    biases = [store.vector(name.replace("weight", "bias")).half() for name in QKV]
    assert matrix.bias is not None
    assert np.array_equal(read(data, matrix.bias), np.concatenate(biases))
    assert np.array_equal(read(data, model.norm), store.vector("model.norm.weight").half())


def test_a_tied_head_and_missing_biases_are_stored_once(tmp_path: Path) -> None:
    model, _, data = pack(tmp_path, "int8", 18, tie_word_embeddings=True)
    (head,) = model.head
    assert head.weight.offset == model.embedding.weight.offset
    biases = [only(layer.o).bias for layer in model.layers] + [only(layer.down).bias for layer in model.layers]
    assert len({bias.offset for bias in biases if bias is not None}) == 1
    assert biases[0] is not None
    assert not read(data, biases[0]).any()


def only(matrices: tuple[PackedMatrix, ...]) -> PackedMatrix:
    (matrix,) = matrices
    return matrix


def test_one_weight_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every weight is gone before the next one but one is read; q, k and v are never joined."""
    alive: set[int] = set()
    most = 0
    original = QuantizedStore.get

    class Tracked(QuantizedWeight):
        def __del__(self) -> None:
            alive.discard(id(self))

    def get(store: QuantizedStore, name: str) -> Any:
        nonlocal most
        found = original(store, name)
        tracked = Tracked(found.scheme, found.codes, found.scales, found.zero_points)
        alive.add(id(tracked))
        most = max(most, len(alive))
        return tracked

    monkeypatch.setattr(QuantizedStore, "get", get)
    pack(tmp_path, "int4-g32", 18)
    assert most <= 2
