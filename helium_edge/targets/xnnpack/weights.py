"""From the quantized store to the data of a program: products as XNNPACK packs them, the embedding, and constants.

Data is described here and made when the file is written, one matrix at a time. Methods share all of it.
Projections of one input are one product where their schemes agree: fewer nodes, and one quantization of the
activations instead of three. The integers are the same either way.

Shapes: N / K output and input channels, G groups of a row, V vocabulary, C hidden_size, H / Hkv query / key-value
heads, D head_dim.

Source: pytorch/executorch backends/xnnpack/operators/node_visitor.py (1.5.1): what XNNPACK's qd8-f32-qb4w and
qd8-f32-qc8w products are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.errors import HeliumEdgeError
from helium_edge.model.kv_cache import KvScales, Side, scale_name
from helium_edge.model.parts import bias_name
from helium_edge.model.rope import rope_tables
from helium_edge.model.weights import EMBEDDING
from helium_edge.pte.builder import ProgramBuilder
from helium_edge.pte.xnnpack_schema import Datatype
from helium_edge.quant import PlannedWeight, QuantizedWeight
from helium_edge.quant.packing import embedding_4bit_weight, pack_codes
from helium_edge.recipe import Scheme
from helium_edge.targets.xnnpack.graph import Matrix

_CODES, _SCALES, _BIAS = "", "scale_", "bias_"
"""Prefixes of the names of named data."""


@dataclass(frozen=True)
class Constant:
    """A constant of the program, as a method sees it.

    Attributes:
        index: Its number in the program.
        dtype: Of its elements.
        shape: Its shape.
    """

    index: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Table:
    """The embedding.

    Attributes:
        scheme: Its format; None in float32.
        rows: (V, C) float32 or int8, or (V, C / 2) packed int4.
        scales: (V,) or (V, G) float32; None in float32.
    """

    scheme: Scheme | None
    rows: Constant
    scales: Constant | None


class WeightStore(Protocol):
    """What `QuantizedStore` gives; a plan needs no more of it than `plan`."""

    @property
    def plan(self) -> list[PlannedWeight]:
        """What happens to each matrix."""
        ...

    def get(self, name: str) -> QuantizedWeight | Tensor:
        """A matrix; see `QuantizedStore.get`."""
        ...

    def vector(self, name: str) -> Tensor:
        """A norm gain or a bias; see `QuantizedStore.vector`."""
        ...


class Weights:
    """The data of one program.

    Args:
        config: The model.
        store: The weights.
        program: Where they go.
        on_weight: Called with the name of each matrix when it is written.
        scales: Of an int8 cache; None where the cache is not quantized.
    """

    def __init__(
        self,
        config: ModelConfig,
        store: WeightStore,
        program: ProgramBuilder,
        on_weight: Callable[[str], None],
        scales: KvScales | None = None,
    ) -> None:
        self.config = config
        self.scales = scales
        self._store = store
        self._program = program
        self._on_weight = on_weight
        self._plan = {planned.name: planned for planned in store.plan}
        self._products: dict[tuple[str, ...], list[Matrix]] = {}

    def products(self, names: Sequence[str]) -> list[Matrix]:
        """Projections of one input: as few products as their schemes allow, in the order of the names."""
        key = tuple(names)
        if key not in self._products:
            groups: list[list[str]] = []
            for name in names:
                if groups and self._plan[groups[-1][-1]].scheme == self._plan[name].scheme:
                    groups[-1].append(name)
                else:
                    groups.append([name])
            self._products[key] = [self._product(group) for group in groups]
        return self._products[key]

    def _product(self, names: Sequence[str]) -> Matrix:
        planned = [self._plan[name] for name in names]
        scheme = planned[0].scheme
        rows, columns = sum(weight.shape[0] for weight in planned), planned[0].shape[1]
        biases = [bias for name in names if (bias := bias_name(self.config, name)) is not None]
        sizes = {_CODES: sum(stored_bytes(weight)[0] for weight in planned)}
        if scheme is not None:
            sizes[_SCALES] = sum(stored_bytes(weight)[1] for weight in planned)
        if biases:
            sizes[_BIAS] = 4 * rows
        pieces = {piece.prefix: piece for piece in self._program.named(sizes, lambda: self._load(names, biases))}
        return Matrix(
            (rows, columns), _datatype(scheme), (scheme and scheme.group_size) or 0,
            pieces[_CODES], pieces.get(_SCALES), pieces.get(_BIAS),
        )  # fmt: skip

    def _load(self, names: Sequence[str], biases: Sequence[str]) -> list[Tensor]:
        weights = [self._store.get(name) for name in names]
        vectors = [torch.cat([self._store.vector(bias) for bias in biases])] if biases else []
        quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
        made = (
            [_joined([_codes(weight) for weight in quantized]), _joined([_scales(weight) for weight in quantized])]
            if quantized
            else [_joined([weight for weight in weights if isinstance(weight, Tensor)])]
        )
        for name in names:
            self._on_weight(name)
        return [*made, *vectors]

    def average(self) -> Matrix:
        """The mean of a row as a product with a row of 1/C: XNNPACK's schema has no mean of rows."""
        width = self.config.hidden_size
        if ("average",) not in self._products:
            row = torch.full((1, width), 1.0 / width)
            (data,) = self._program.named({_CODES: 4 * width}, lambda: [row])
            self._products["average",] = [Matrix((1, width), Datatype.FP32, 0, data, None, None)]
        return self._products["average",][0]

    def embedding(self) -> Table:
        """The embedding, for the operators that read rows of it."""
        planned = self._plan[EMBEDDING]
        rows, columns = planned.shape
        held: list[Tensor] = []

        def codes() -> Tensor:
            weight = self._store.get(EMBEDDING)
            self._on_weight(EMBEDDING)
            if isinstance(weight, Tensor):
                return weight
            _check(weight)
            held.append(weight.scales)
            return weight.codes if weight.scheme.bits == 8 else embedding_4bit_weight(weight)

        scheme = planned.scheme
        if scheme is None:
            return Table(None, self._constant(EMBEDDING, torch.float32, (rows, columns), codes), None)
        groups = columns // (scheme.group_size or columns)
        if scheme.bits == 8:
            table = self._constant(EMBEDDING, torch.int8, (rows, columns), codes)
            return Table(scheme, table, self._constant("embedding.scales", torch.float32, (rows,), held.pop))
        table = self._constant(EMBEDDING, torch.uint8, (rows, columns // 2), codes)
        return Table(scheme, table, self._constant("embedding.scales", torch.float32, (rows, groups), held.pop))

    def vector(self, name: str) -> Constant:
        """A norm gain, (N,)."""
        return self._constant(name, torch.float32, (self.config.hidden_size,), lambda: self._store.vector(name))

    def rope(self, positions: int) -> tuple[Constant, Constant]:
        """Cos and sin of each position, (positions, D/2) each."""
        config = self.config
        tables = rope_tables(config.rope_theta, config.head_dim, positions)
        cos, sin = (self.made(name, table) for name, table in zip(("rope.cos", "rope.sin"), tables, strict=True))
        return cos, sin

    def cache_scales(self, layer: int, side: Side) -> tuple[Constant, Constant] | None:
        """What an int8 cache is scaled by; None where the cache is not quantized.

        Returns:
            What new rows are multiplied by before they are rounded, (Hkv, 1, D); and what queries (keys: (H, 1,
            D)) and the result of attention (values: (H * D,)) are multiplied by.
        """
        if self.scales is None:
            return None
        scale = self.scales.side(layer, side)
        factor = scale.repeat_interleave(self.config.num_attention_heads // self.config.num_key_value_heads, dim=0)
        name = scale_name(layer, side)
        return (
            self.made(f"{name}.inverse", scale.reciprocal()[:, None]),
            self.made(name, factor[:, None] if side == "key" else factor.view(-1)),
        )

    def made(self, name: str, tensor: Tensor) -> Constant:
        """A small constant that is at hand."""
        return self._constant(name, tensor.dtype, tuple(tensor.shape), lambda: tensor)

    def _constant(
        self, name: str, dtype: torch.dtype, shape: tuple[int, ...], load: Callable[[], Tensor]
    ) -> Constant:
        size = torch.Size(shape).numel() * dtype.itemsize
        return Constant(self._program.constant(name, size, load), dtype, shape)


def stored_bytes(weight: PlannedWeight) -> tuple[int, int]:
    """Bytes of a matrix in the file: of codes or float32 weights, and of bfloat16 (int4) or float32 scales."""
    rows, columns = weight.shape
    if weight.scheme is None:
        return 4 * rows * columns, 0
    groups = columns // (weight.scheme.group_size or columns)
    scale = 2 if weight.scheme.bits == 4 and weight.name != EMBEDDING else 4
    return rows * columns * weight.scheme.bits // 8, scale * rows * groups


def _datatype(scheme: Scheme | None) -> Datatype:
    if scheme is None:
        return Datatype.FP32
    return Datatype.QBINT4 if scheme.bits == 4 else Datatype.QCINT8


def _codes(weight: QuantizedWeight) -> Tensor:
    _check(weight)
    return pack_codes(weight.codes, weight.scheme) if weight.scheme.bits == 4 else weight.codes


def _scales(weight: QuantizedWeight) -> Tensor:
    return weight.scales.to(torch.bfloat16) if weight.scheme.bits == 4 else weight.scales


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Matrices one below the other; a single one is not copied, since a head is hundreds of megabytes."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _check(weight: QuantizedWeight) -> None:
    """Refuse what XNNPACK would run silently and wrong; recipes that ask for it are refused much earlier.

    Raises:
        HeliumEdgeError: Zero points, or int4 scales that bfloat16 cannot hold.
    """
    if weight.zero_points is not None:
        raise HeliumEdgeError(f"{weight.scheme}: XNNPACK ignores zero points of weights")
    if weight.scheme.bits == 4 and not torch.equal(weight.scales.to(torch.bfloat16).float(), weight.scales):
        raise HeliumEdgeError(f"{weight.scheme}: scales must be representable in bfloat16")
