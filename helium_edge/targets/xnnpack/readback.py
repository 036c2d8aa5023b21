"""`XnnpackArtifact`: codes, scales and constants, read back from the methods of a `.pte`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from helium_edge.config import ModelConfig
from helium_edge.errors import BundleError
from helium_edge.model.kv_cache import KvScales
from helium_edge.model.weights import EMBEDDING, FINAL_NORM, head_name, layer_name, vector_names
from helium_edge.pte.file import PteFile
from helium_edge.pte.xnnpack_schema import Datatype, PerChannelGroupQuant, PerChannelQuant, XNNMultiply
from helium_edge.quant.packing import read_embedding_4bit
from helium_edge.recipe import Scheme
from helium_edge.runtime.xnnpack_program import stored_weight
from helium_edge.targets.artifact import (
    Artifact,
    StoredCodes,
    WeightDifference,
    layer_of,
    row_groups,
    wrong_constant,
    wrong_table,
)
from helium_edge.targets.xnnpack.anatomy import Anatomy, Norm, Product, dissect, inputs_of, readable
from helium_edge.targets.xnnpack.cache_readback import wrong_cache


class XnnpackArtifact(Artifact):
    """The weights that the methods of a program compute with; read from the first, compared with the others.

    Args:
        path: The `.pte`.
        methods: Its methods that compute.
        config: The model.
        scales: That an int8 cache was calibrated to; None where the cache holds real values.
        dtype: Of the cache.

    Raises:
        BundleError: The file is not readable, or a method is not built as ours are.
    """

    def __init__(
        self,
        path: Path,
        methods: list[str],
        config: ModelConfig,
        scales: KvScales | None = None,
        dtype: str = "float32",
    ) -> None:
        super().__init__(config)
        self._scales = scales
        self._dtype = dtype
        pte = PteFile(path)
        self._methods = {method: dissect(pte, method, config) for method in methods}
        self._first = next(iter(self._methods.values()))
        self._where = path.name
        with readable(self._where):
            self._parts, self._vectors = _parts(self._first, config)
        self._last: tuple[int, StoredCodes | Tensor] | None = None

    @override
    def matrix(self, name: str) -> StoredCodes | Tensor:
        with readable(self._where):
            if name == EMBEDDING:
                return _read_table(self._first)
            product, rows = self._parts[name]
            # Fused matrices are asked for one after the other: the last one is kept.
            if self._last is None or self._last[0] != product.weight:
                self._last = None
                self._last = product.weight, _read_matrix(self._first, product)
            whole = self._last[1]
            return whole.rows(rows) if isinstance(whole, StoredCodes) else whole[rows]

    @override
    def vector(self, name: str) -> Tensor:
        if name not in self._vectors:
            raise BundleError(f"the program has no {name}")
        with readable(self._where):
            value, rows = self._vectors[name]
            found = self._first.delegate.constant(value)
            if found is None:
                raise BundleError(f"{name} is not a constant of the program")
            return found.flatten()[rows]

    @override
    def differences(self) -> list[WeightDifference]:
        with readable(self._where):
            return self._differences()

    def _differences(self) -> list[WeightDifference]:
        first, *others = self._methods
        places = _places(self._methods[first], self.config)
        found = []
        for method in others:
            theirs = _places(self._methods[method], self.config)
            for name, place in places.items():
                if theirs.get(name) != place:
                    said = f"other data than in {first}"
                    found.append(WeightDifference(name, layer_of(name), method, "place", diagnosis=said))
        for method, anatomy in self._methods.items():
            found += _constants(anatomy, self.config, method)
            if self.config.task.has_cache:
                found += wrong_cache(anatomy, self.config, self._scales, self._dtype)
        return found


def _parts(
    anatomy: Anatomy, config: ModelConfig
) -> tuple[dict[str, tuple[Product, slice]], dict[str, tuple[int, slice]]]:
    """Which product and rows hold each matrix, and which value and rows each vector."""
    head = head_name(config)
    matrices: dict[str, tuple[Product, slice]] = {}
    if head is not None and anatomy.head is not None:
        matrices[head] = anatomy.head, slice(None)
    vectors: dict[str, tuple[int, slice]] = {FINAL_NORM: (anatomy.norm.gain, slice(None))}
    for index, layer in enumerate(anatomy.layers):
        vectors[layer_name(index, "input_layernorm.weight")] = layer.norm1.gain, slice(None)
        vectors[layer_name(index, "post_attention_layernorm.weight")] = layer.norm2.gain, slice(None)
        kinds = ("up", "gate") if layer.up_first else ("gate", "up")
        stacked = (
            (layer.qkv, [layer_name(index, f"self_attn.{kind}_proj.weight") for kind in "qkv"]),
            (layer.gate_up, [layer_name(index, f"mlp.{kind}_proj.weight") for kind in kinds]),
        )
        for products, names in stacked:
            groups = row_groups(config, names, [product.rows for product in products])
            for product, group in zip(products, groups, strict=True):
                matrices |= {name: (product, rows) for name, rows in group}
        matrices[layer_name(index, "self_attn.o_proj.weight")] = layer.o, slice(None)
        matrices[layer_name(index, "mlp.down_proj.weight")] = layer.down, slice(None)
    known = frozenset(vector_names(config))
    for name, (product, rows) in matrices.items():
        bias = name.removesuffix("weight") + "bias"
        # A bias of zeros may stand where the model has none, to keep weights apart in XNNPACK's cache.
        if product.bias is not None and bias in known:
            vectors[bias] = product.bias, rows
    return matrices, vectors


def _read_matrix(anatomy: Anatomy, product: Product) -> StoredCodes | Tensor:
    delegate = anatomy.delegate
    value = delegate.graph.xvalues[product.weight]
    rows, columns = value.tensor.dims
    data, params = delegate.stored(value.tensor.constant_buffer_idx), value.quant_params
    if not isinstance(params, PerChannelQuant | PerChannelGroupQuant):
        return data.view(torch.float32).view(rows, columns)
    found = stored_weight(value.tensor.datatype, data, delegate.stored(params.scale_buffer_idx), rows, columns)
    return StoredCodes(4 if value.tensor.datatype == Datatype.QBINT4 else 8, found.codes, found.scales)


def _read_table(anatomy: Anatomy) -> StoredCodes | Tensor:
    delegate = anatomy.delegate
    for name, arguments in delegate.kernels():
        if "::embedding" not in name:
            continue
        data = delegate.pte.constant(delegate.plan, arguments[0])
        if data is None:
            break
        if name == "aten::embedding":
            return data
        scales = delegate.pte.constant(delegate.plan, arguments[1])
        if scales is None:
            break
        scales = scales.view(data.shape[0], -1)
        if name.endswith("_byte"):
            return StoredCodes(8, data, scales)
        scheme = Scheme(bits=4, group_size=2 * data.shape[1] // scales.shape[1])
        return StoredCodes(4, read_embedding_4bit(data, scheme), scales)
    raise BundleError(f"{delegate.pte.path.name}, method {delegate.method}: no embedding of constants")


def _places(anatomy: Anatomy, config: ModelConfig) -> dict[str, tuple[object, ...]]:
    """What each weight of a method is read from."""
    delegate = anatomy.delegate
    matrices, vectors = _parts(anatomy, config)
    places: dict[str, tuple[object, ...]] = {}
    for name, (product, rows) in matrices.items():
        scales = getattr(delegate.graph.xvalues[product.weight].quant_params, "scale_buffer_idx", 0)
        indices = [delegate.tensor(product.weight).constant_buffer_idx, scales]
        places[name] = (*(delegate.key(index) for index in indices if index), rows.start, rows.stop)
    for name, (value, rows) in vectors.items():
        index = delegate.tensor(value).constant_buffer_idx
        places[name] = (delegate.key(index) if index else _argument_place(anatomy, value), rows.start, rows.stop)
    for name, arguments in delegate.kernels():
        if "::embedding" in name:
            places[EMBEDDING] = tuple(_buffer(anatomy, value) for value in arguments[:2])
    return places


def _argument_place(anatomy: Anatomy, value: int) -> int:
    argument = anatomy.delegate.argument(value)
    return -1 if argument is None else _buffer(anatomy, argument)


def _buffer(anatomy: Anatomy, value: int) -> int:
    return int(getattr(anatomy.delegate.plan.values[value].val, "data_buffer_idx", 0))


def _constants(anatomy: Anatomy, config: ModelConfig, method: str) -> Iterator[WeightDifference]:
    """Constants of one method that are not what the config says."""
    delegate = anatomy.delegate
    norms: list[tuple[int | None, Norm]] = [(None, anatomy.norm)]
    for index, layer in enumerate(anatomy.layers):
        norms += [(index, layer.norm1), (index, layer.norm2)]
    for where, norm in norms:
        eps = delegate.constant(norm.eps)
        value = math.nan if eps is None else float(eps)
        yield from wrong_constant("rms_norm_eps", where, method, value, config.rms_norm_eps)
    for index, layer in enumerate(anatomy.layers):
        for value in _attention_scales(anatomy, layer.qkv[-1].out, layer.o.x):
            yield from wrong_constant("scale", index, method, value, 1.0 / math.sqrt(config.head_dim))
    tables = [arguments[0] for name, arguments in delegate.kernels() if name == "aten::index_select"]
    for name, value in zip(("rope.cos", "rope.sin"), tables, strict=False):
        yield from wrong_table(name, None, method, delegate.pte.constant(delegate.plan, value), config)


def _attention_scales(anatomy: Anatomy, start: int, end: int) -> Iterator[float]:
    """Numbers that the nodes between two values multiply by."""
    delegate = anatomy.delegate
    inside = False
    for node in delegate.nodes:
        inside |= node.output_id == start
        if inside and isinstance(node, XNNMultiply):
            for value in inputs_of(node):
                found = delegate.constant(value)
                if found is not None and found.numel() == 1:
                    yield float(found)
        if node.output_id == end:
            return
