"""`OnnxArtifact`: codes, scales and constants, read back from the graphs and `weights.bin` of a bundle."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import onnx_ir as ir
import torch
from torch import Tensor
from typing_extensions import override

from helium_edge.config import ModelConfig
from helium_edge.documents import first_line
from helium_edge.errors import BundleError
from helium_edge.hub import is_hub_link
from helium_edge.model.kv_cache import KvScales
from helium_edge.model.weights import EMBEDDING, FINAL_NORM, head_name, layer_name
from helium_edge.quant.packing import read_onnx_int4_columns, unpack_codes, unpack_nibbles
from helium_edge.recipe import Scheme
from helium_edge.targets.artifact import (
    Artifact,
    StoredCodes,
    WeightDifference,
    layer_of,
    row_groups,
    wrong_constant,
    wrong_table,
)
from helium_edge.targets.onnx.anatomy import Anatomy, Linear, Norm, dissect
from helium_edge.targets.onnx.builder import CONTRIB
from helium_edge.targets.onnx.cache_readback import wrong_cache
from helium_edge.targets.onnx.options import OnnxOptions

_ROTARY = ("GroupQueryAttention", "RotaryEmbedding")


class OnnxArtifact(Artifact):
    """The weights that the graphs of a bundle compute with; read from the first graph, compared with the others.

    Args:
        folder: The bundle.
        files: Its graphs; all refer to the same weights.
        config: The model.
        options: Of the recipe: dialect and accuracy levels.
        scales: That an int8 cache was calibrated to.
        half: The cache is float16.

    Raises:
        BundleError: A graph is not readable, or not built as ours are.
    """

    def __init__(
        self,
        folder: Path,
        files: list[str],
        config: ModelConfig,
        options: OnnxOptions,
        scales: KvScales | None = None,
        *,
        half: bool = False,
    ) -> None:
        super().__init__(config)
        self._scales = scales
        self._half = half
        self._options = options
        self._graphs = {file: _open(folder / file, config) for file in files}
        self._first = next(iter(self._graphs.values()))
        self._parts, self._vectors = _parts(self._first, config)
        self._last: tuple[ir.Node, StoredCodes | Tensor] | None = None

    @override
    def matrix(self, name: str) -> StoredCodes | Tensor:
        if name == EMBEDDING:
            return _read_table(self._first, self.config)
        linear, rows = self._parts[name]
        # Fused matrices are asked for one after the other: the last one is kept.
        if self._last is None or self._last[0] is not linear.node:
            self._last = None
            self._last = linear.node, _read_linear(linear)
        whole = self._last[1]
        return whole.rows(rows) if isinstance(whole, StoredCodes) else whole[rows]

    @override
    def vector(self, name: str) -> Tensor:
        if name not in self._vectors:
            raise BundleError(f"the graphs have no {name}")
        value, rows = self._vectors[name]
        return _read(value)[rows]

    @override
    def differences(self) -> list[WeightDifference]:
        first, *others = self._graphs
        places = _places(self._graphs[first], self.config)
        found = []
        for file in others:
            theirs = _places(self._graphs[file], self.config)
            for name, place in places.items():
                if theirs.get(name) != place:
                    found.append(
                        WeightDifference(
                            name, layer_of(name), file, "place",
                            diagnosis=f"reads {_say(theirs.get(name, ()))} where {first} reads {_say(place)}",
                        )
                    )  # fmt: skip
        for file, anatomy in self._graphs.items():
            found += _constants(anatomy, self.config, self._options, file, half=self._half)
            for layer, node in _attention_nodes(anatomy, self.config):
                if node.op_type == "GroupQueryAttention":
                    found += wrong_cache(node, layer, file, self._scales)
        return found


Place = tuple[tuple[str, int, int, str], ...]
"""Name, offset, bytes and shape of each tensor that a weight is made of."""


def _open(path: Path, config: ModelConfig) -> Anatomy:
    try:
        model = ir.load(path)
        _follow_hub_links(model)
    except Exception as error:  # protobuf's and onnx' errors have no common base
        raise BundleError(f"{path.name}: not readable as an ONNX graph: {first_line(error)}") from error
    return dissect(model, config, path.name)


def _parts(
    anatomy: Anatomy, config: ModelConfig
) -> tuple[dict[str, tuple[Linear, slice]], dict[str, tuple[ir.Value, slice]]]:
    """Which product and rows hold each matrix, and which constant and rows each vector."""
    head = head_name(config)
    matrices: dict[str, tuple[Linear, slice]] = {}
    if head is not None and anatomy.head is not None:
        matrices[head] = anatomy.head, slice(None)
    vectors: dict[str, tuple[ir.Value, slice]] = {FINAL_NORM: (anatomy.norm.gain, slice(None))}
    for index, layer in enumerate(anatomy.layers):
        vectors[layer_name(index, "input_layernorm.weight")] = layer.norm1.gain, slice(None)
        vectors[layer_name(index, "post_attention_layernorm.weight")] = layer.norm2.gain, slice(None)
        names = [layer_name(index, f"self_attn.{kind}_proj.weight") for kind in "qkv"]
        sizes = [linear.rows for linear in layer.qkv]
        for linear, group in zip(layer.qkv, row_groups(config, names, sizes), strict=True):
            matrices |= {name: (linear, rows) for name, rows in group}
        matrices[layer_name(index, "self_attn.o_proj.weight")] = layer.o, slice(None)
        for kind, linear in (("gate", layer.gate), ("up", layer.up), ("down", layer.down)):
            matrices[layer_name(index, f"mlp.{kind}_proj.weight")] = linear, slice(None)
    for name, (linear, rows) in matrices.items():
        if linear.bias is not None:
            vectors[name.removesuffix("weight") + "bias"] = linear.bias, rows
    return matrices, vectors


def _follow_hub_links(model: ir.Model) -> None:
    """Read weights of the Hub's cache from their blob: onnx-ir takes any link out of the folder for an attack."""
    blobs: dict[str, Path | None] = {}
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        path = Path(tensor.path)
        if tensor.path not in blobs:
            blobs[tensor.path] = Path(os.path.realpath(path)) if path.is_symlink() and is_hub_link(path) else None
        blob = blobs[tensor.path]
        if blob is not None:
            value.const_value = ir.ExternalTensor(
                blob.name, tensor.offset, tensor.length, tensor.dtype,
                shape=tensor.shape, name=tensor.name, base_dir=blob.parent,
            )  # fmt: skip


def _read(value: ir.Value) -> Tensor:
    """A constant as torch has it; 4-bit types as their packed bytes."""
    tensor = value.const_value
    if tensor is None:
        raise BundleError(f"{value.name} is not a constant")
    try:
        if tensor.dtype in (ir.DataType.INT4, ir.DataType.UINT4):
            return torch.frombuffer(bytearray(tensor.tobytes()), dtype=torch.uint8)
        return torch.from_numpy(tensor.numpy().copy())
    except (OSError, ValueError) as error:  # a link, or too short: only bundles that nobody verified come this far
        raise BundleError(
            f"{value.name}: its weights are not readable: {first_line(error)}",
            hint="copy the bundle, which breaks hard links, or export it again",
        ) from error


def _read_linear(linear: Linear) -> StoredCodes | Tensor:
    data = _read(linear.weight)
    if linear.scales is None:
        return data.T.contiguous()
    scales = _read(linear.scales)
    if linear.portable:
        return _read_columns(linear, data, scales.T.contiguous())
    rows, blocks = scales.shape
    columns = linear.node.attributes["K"].as_int()
    bits = 8 if linear.node.attributes["bits"].as_int() == 8 else 4
    zeros = None
    if linear.zero_points is not None:
        zeros = unpack_nibbles(_read(linear.zero_points).view(rows, -1), blocks).view(torch.int8)
    codes = data.view(rows, -1)[:, : columns * bits // 8].contiguous()
    scheme = Scheme(bits=8) if bits == 8 else Scheme(bits=4, group_size=32, symmetric=zeros is None)
    return StoredCodes(scheme.bits, unpack_codes(codes, scheme, columns), scales, zeros)


def _read_columns(linear: Linear, data: Tensor, scales: Tensor) -> StoredCodes:
    """Codes that lie as (K, N) in front of DequantizeLinear; `scales` is (N, B)."""
    if data.dtype == torch.int8:
        return StoredCodes(8, data.T.contiguous(), scales)
    rows, blocks = scales.shape
    columns = linear.weight.const_value.shape.numpy()[0] if linear.weight.const_value is not None else 0
    zeros = None
    if linear.zero_points is not None:
        zeros = read_onnx_int4_columns(_read(linear.zero_points), rows=rows, columns=blocks, signed=False)
    codes = read_onnx_int4_columns(data, rows=rows, columns=columns, signed=zeros is None)
    return StoredCodes(4, codes, scales, zeros)


def _read_table(anatomy: Anatomy, config: ModelConfig) -> StoredCodes | Tensor:
    data, *rest = [_read(value) for value in anatomy.table]
    if not rest:
        return data
    scales, columns = rest[0], config.hidden_size
    rows, blocks = scales.shape
    if data.dtype == torch.int8:
        return StoredCodes(8, data, scales)
    zeros = rest[1] if len(rest) > 1 else None
    if zeros is not None and zeros.dtype == torch.uint8:
        zeros = unpack_nibbles(zeros.view(rows, -1), blocks).view(torch.int8)
    bits = data.numel() * 8 // (rows * columns)
    scheme = Scheme(bits=8) if bits == 8 else Scheme(bits=4, group_size=32, symmetric=zeros is None)
    return StoredCodes(scheme.bits, unpack_codes(data.view(rows, -1), scheme, columns), scales, zeros)


def _places(anatomy: Anatomy, config: ModelConfig) -> dict[str, Place]:
    """Where each weight of a graph lies."""
    matrices, vectors = _parts(anatomy, config)
    places = {EMBEDDING: _place(*anatomy.table)}
    for name, (linear, _) in matrices.items():
        places[name] = _place(linear.weight, linear.scales, linear.zero_points)
    return places | {name: _place(value) for name, (value, _) in vectors.items()}


def _place(*values: ir.Value | None) -> Place:
    return tuple(_place_of(value.const_value) for value in values if value is not None and value.const_value)


def _place_of(tensor: ir.TensorProtocol) -> tuple[str, int, int, str]:
    shape = f"{tensor.dtype}{list(tensor.shape)}"
    if isinstance(tensor, ir.ExternalTensor):
        return str(tensor.location), tensor.offset or 0, tensor.length or 0, shape
    return "the graph itself", 0, tensor.nbytes, shape


def _say(place: Place) -> str:
    return " and ".join(f"{length} bytes at {offset} of {file}" for file, offset, length, _ in place) or "nothing"


def _constants(
    anatomy: Anatomy, config: ModelConfig, options: OnnxOptions, file: str, *, half: bool
) -> list[WeightDifference]:
    """Constants of one graph that are not what the config or the recipe says."""
    found = [*_eps(anatomy, config, file), *_wrong_tables(anatomy, config, file)]

    def expect(name: str, layer: int | None, value: float, expected: float) -> None:
        found.extend(wrong_constant(name, layer, file, value, expected))

    attributes = {
        "num_heads": config.num_attention_heads, "kv_num_heads": config.num_key_value_heads,
        "scale": 1.0 / math.sqrt(config.head_dim), "rotary_interleaved": 0, "interleaved": 0,
        # Attention in float16 is given what was rotated in float32.
        "do_rotary": int(not half),
    }  # fmt: skip
    for layer, node in _attention_nodes(anatomy, config):
        for name, expected in attributes.items():
            attribute = node.attributes.get(name)
            if attribute is not None:
                expect(name, layer, float(attribute.value), expected)
        if node.op_type == "RotaryEmbedding" and node.outputs[0].consumers()[0].op_type == "Mul":
            scale = node.outputs[0].consumers()[0].inputs[1]
            assert scale is not None
            expect("scale", layer, float(_read(scale)), attributes["scale"])
    for index, layer_parts in enumerate(anatomy.layers):
        for linear in (*layer_parts.qkv, layer_parts.o, layer_parts.gate, layer_parts.up, layer_parts.down):
            level = linear.node.attributes.get("accuracy_level")
            if level is not None:
                expect("accuracy_level", index, level.as_int(), options.accuracy_level)
    level = None if anatomy.head is None else anatomy.head.node.attributes.get("accuracy_level")
    if level is not None:
        expect("accuracy_level", None, level.as_int(), options.head_accuracy_level)
    return found


def _eps(anatomy: Anatomy, config: ModelConfig, file: str) -> Iterator[WeightDifference]:
    norms: list[tuple[int | None, Norm]] = [(None, anatomy.norm)]
    for index, layer in enumerate(anatomy.layers):
        norms += [(index, layer.norm1), (index, layer.norm2)]
    for where, norm in norms:
        yield from wrong_constant("rms_norm_eps", where, file, norm.eps, config.rms_norm_eps)


def _attention_nodes(anatomy: Anatomy, config: ModelConfig) -> Iterator[tuple[int, ir.Node]]:
    """The nodes that rotate or attend, each with its layer."""
    nodes = [node for node in anatomy.model.graph if node.op_type in _ROTARY]
    each = max(1, len(nodes) // config.num_hidden_layers)
    yield from ((index // each, node) for index, node in enumerate(nodes))


def _tables(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """Cos and sin; None where the node has none."""
    first = 7 if node.op_type == "GroupQueryAttention" else 2 if node.domain == CONTRIB else 1
    cos, sin = [*node.inputs[first : first + 2], None, None][:2]
    return cos, sin


def _wrong_tables(anatomy: Anatomy, config: ModelConfig, file: str) -> Iterator[WeightDifference]:
    """RoPE tables that are not those of the config; one that all layers share is told of once."""
    users: dict[tuple[str, str], set[int]] = {}
    values: dict[tuple[str, str], ir.Value | None] = {}
    turning = [(layer, node) for layer, node in _attention_nodes(anatomy, config) if _rotates(node)]
    for layer, node in turning:
        for name, value in zip(("rope.cos", "rope.sin"), _tables(node), strict=True):
            key = name, "" if value is None else str(value.name)
            users.setdefault(key, set()).add(layer)
            values[key] = value
    for key, layers in users.items():
        shared = len(layers) == config.num_hidden_layers
        where: list[int | None] = [None] if shared else [*sorted(layers)]
        for one in where:
            yield from wrong_table(key[0], one, file, _maybe_read(values[key]), config)


def _rotates(node: ir.Node) -> bool:
    attribute = node.attributes.get("do_rotary")
    return attribute is None or bool(attribute.value)


def _maybe_read(value: ir.Value | None) -> Tensor | None:
    return None if value is None or value.const_value is None else _read(value)
