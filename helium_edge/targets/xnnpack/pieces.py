"""Attention over the cache in pieces that the processor's cache holds: XNNPACK is slow at reading memory itself.

A product of XNNPACK packs its second operand at every call, and reads memory at a third of its speed. Where a
piece of the cache is copied first, in the order in which it lies there (codes of an int8 cache are converted
anyway), packing and product find it in the processor's cache. Scores are the same numbers; the result of attention
is a sum of pieces instead of one over all slots.

    scores = q K'      ->  [q K0', q K1', ...]             K0, K1, ...: copies of the slots of each piece
    out    = w V       ->  w0 V0 + w1 V1 + ...

The graph is changed as an object, before XNNPACK's serializer writes it: torch's graph stays small, and what
ExecuTorch does not hand to XNNPACK (a slice of int8 codes) can be said.

Imported only where executorch is loaded.

Shapes: H key-value heads, S cache slots, N slots of a piece, Q query rows of one key-value head, D head_dim.

Source: pytorch/executorch backends/xnnpack/serialization/xnnpack_graph_schema.py; benchmarks/pte_attention.py.
"""

from __future__ import annotations

import copy
from collections import Counter
from itertools import pairwise
from typing import Any

from executorch.backends.xnnpack.serialization import xnnpack_graph_schema as schema

from helium_edge.targets.xnnpack.anatomy import NOTHING, VALUE_FIELDS

PIECE_BYTES = 5 << 18
"""Most bytes of the keys, or of the values, of a piece as float32. Measured: benchmarks/pte_attention.py."""

MOST_ROWS = 32
"""Query rows of a key-value head up to which pieces pay: more of them make use of what is packed (ADR 14)."""

_INPUT = 1
"""XNNPACK's flag of a value that is handed in."""
_SLOTS, _COLUMNS = 1, 2
"""The axis of a cache's slots, and that of scores and weights over them."""
_OPERANDS = 5
"""Most values that XNNPACK concatenates at once."""
_READING = (schema.XNNConvert, schema.XNNClamp, schema.XNNStaticTranspose)
"""What stands between a cache and its product."""


def in_pieces(graph: Any, piece_bytes: int | None = None) -> Any:
    """A method's graph with the products of each cache in pieces, where it has more slots than one has.

    Args:
        graph: XNNPACK's graph of a decoder method of ours; stays as it is.
        piece_bytes: Most bytes of a piece, by default `PIECE_BYTES`; a piece has a slot at least.

    Returns:
        A graph with the same inputs and outputs.
    """
    return _Cutting(copy.deepcopy(graph), PIECE_BYTES if piece_bytes is None else piece_bytes).cut()


def bounds(slots: int, slot_bytes: int, piece_bytes: int) -> list[int]:
    """Where each piece starts, and where the last one ends.

    Args:
        slots: S.
        slot_bytes: Of the keys, or of the values, of a slot as float32.
        piece_bytes: Most bytes of a piece.
    """
    most = max(1, piece_bytes // slot_bytes)
    return [*range(0, slots, most), slots]


class _Cutting:
    """The rewriting of one graph, in place."""

    def __init__(self, graph: Any, piece_bytes: int) -> None:
        self._graph = graph
        self._piece_bytes = piece_bytes
        self._makers = {node.xnode_union.output_id: node for node in graph.xnodes}
        self._uses = Counter(value for node in graph.xnodes for value in _inputs(node.xnode_union))
        self._nodes: list[Any] = []
        self._handle = 0

    def cut(self) -> Any:
        """The graph, changed."""
        readings = {id(node): self._reading(node) for node in self._graph.xnodes}
        moved = {id(step) for steps in readings.values() for step in steps[1:]}
        for node in self._graph.xnodes:
            steps = readings[id(node)]
            if steps:
                self._handle = node.debug_handle
                self._product(node.xnode_union, *steps)
            elif id(node) not in moved:
                self._nodes.append(node)
        self._graph.xnodes = self._nodes
        return self._graph

    def _reading(self, node: Any) -> list[Any]:
        """Where a product takes a cache of several pieces: the value, and the nodes from there to the product."""
        product = node.xnode_union
        steps: list[Any] = []
        if not isinstance(product, schema.XNNBatchMatrixMultiply):
            return []
        value = product.input2_id
        while (maker := self._makers.get(value)) is not None and isinstance(maker.xnode_union, _READING):
            if self._uses[value] > 1:
                return []
            steps.insert(0, maker)
            value = maker.xnode_union.input_id
        tensor = self._tensor(value)
        if maker is not None or not tensor.flags & _INPUT or len(self._bounds(tensor.dims)) <= 2:
            return []
        return [value, *steps]

    def _bounds(self, dims: list[int]) -> list[int]:
        heads, slots, width = dims
        return bounds(slots, 4 * heads * width, self._piece_bytes)

    def _product(self, product: Any, cache: int, *steps: Any) -> None:
        """Put a product's pieces in its place: each is read and used up before the next one is read."""
        dims = self._tensor(cache).dims
        transposed = any(isinstance(step.xnode_union, schema.XNNStaticTranspose) for step in steps)
        # Values of the product that is no more: the first piece takes them over, or they would still have memory.
        free = [step.xnode_union.output_id for step in steps]
        whole, total = product.output_id, None
        scores = []
        places = list(pairwise(self._bounds(dims)))
        for number, (start, end) in enumerate(places):
            value = self._slice(cache, _SLOTS, start, end)
            for step in steps:
                made = copy.deepcopy(step.xnode_union)
                out = free.pop(0) if free else self._like(made.output_id)
                axis = _COLUMNS if isinstance(made, schema.XNNStaticTranspose) else _SLOTS
                self._resize(out, axis, end - start)
                made.input_id, made.output_id = value, out
                self._add(made, step.output_min_max)
                value = out
            if transposed:
                result = self._like(whole)
                self._resize(result, _COLUMNS, end - start)
                self._binary(schema.XNNBatchMatrixMultiply, product.input1_id, value, result)
                scores.append(result)
                continue
            weights = self._slice(product.input1_id, _COLUMNS, start, end)
            result = self._like(whole)
            self._binary(schema.XNNBatchMatrixMultiply, weights, value, result)
            if total is not None:
                both = whole if number == len(places) - 1 else self._like(whole)
                self._binary(schema.XNNAdd, total, result, both)
                result = both
            total = result
        if transposed:
            self._concatenate(scores, whole)

    def _slice(self, value: int, axis: int, start: int, end: int) -> int:
        out = self._like(value)
        self._resize(out, axis, end - start)
        sizes, offsets = list(self._tensor(out).dims), [0, 0, 0]
        offsets[axis] = start
        self._add(schema.XNNStaticSlice(len(sizes), offsets, sizes, value, out, 0))
        return out

    def _concatenate(self, values: list[int], out: int) -> None:
        while len(values) > _OPERANDS:
            groups = [values[at : at + _OPERANDS] for at in range(0, len(values), _OPERANDS)]
            values = [group[0] if len(group) == 1 else self._joined(group, self._like(out)) for group in groups]
        self._joined(values, out)

    def _joined(self, values: list[int], out: int) -> int:
        self._resize(out, _COLUMNS, sum(self._tensor(value).dims[_COLUMNS] for value in values))
        kind = getattr(schema, f"XNNConcatenate{len(values)}")
        padded = values + [NOTHING] * (_OPERANDS - len(values))
        names = {f"input{number}_id": value for number, value in enumerate(padded, start=1)}
        self._add(kind(axis=_COLUMNS, output_id=out, flags=0, **names))
        return out

    def _binary(self, kind: Any, left: int, right: int, out: int) -> None:
        self._add(kind(input1_id=left, input2_id=right, output_id=out, flags=0))

    def _add(self, union: Any, output_min_max: Any = None) -> None:
        self._nodes.append(schema.XNode(union, self._handle, output_min_max))

    def _like(self, value: int) -> int:
        """A new value of the graph's own with the type and shape of another."""
        made = copy.deepcopy(self._graph.xvalues[value])
        self._graph.xvalues.append(made)
        number = len(self._graph.xvalues) - 1
        tensor = self._tensor(number)
        tensor.external_id, tensor.flags, tensor.id_out = NOTHING, 0, number
        return number

    def _resize(self, value: int, axis: int, size: int) -> None:
        tensor = self._tensor(value)
        tensor.dims = [size if place == axis else dim for place, dim in enumerate(tensor.dims)]

    def _tensor(self, value: int) -> Any:
        union = self._graph.xvalues[value].xvalue_union
        return getattr(union, "tensor_value", union)


def _inputs(union: Any) -> list[int]:
    """Values that a node reads."""
    return [value for name in VALUE_FIELDS if (value := getattr(union, name, NOTHING)) != NOTHING]
