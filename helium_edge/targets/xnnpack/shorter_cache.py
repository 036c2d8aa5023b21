"""Decode methods for all cache lengths, made from one that is lowered already: seconds instead of minutes.

Two decode methods differ in nothing but the sizes of what has an axis over the slots of the cache: S, and S + 1
for the scores of the past with that of the new token. One method is lowered, and in a copy of its program these
sizes are replaced. Everything else is shared: weights, gains, and the tables of RoPE, of which a shorter cache
uses the first rows. Attention over a long cache is then put in pieces (`pieces.py`).

Imported only where executorch is loaded.

Shapes: S cache slots, of the lowered method or of the copy.

Source: pytorch/executorch backends/xnnpack/serialization/xnnpack_graph_schema.py, exir/schema.py.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

from executorch.backends.xnnpack import xnnpack_preprocess
from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize
from executorch.exir import schema
from executorch.exir.program import _program

from helium_edge.config import ModelConfig
from helium_edge.errors import HeliumEdgeError
from helium_edge.targets.xnnpack.pieces import in_pieces

_SIZES = ("sizes", "offsets", "new_shape")
"""Fields of XNNPACK's nodes that are shapes or places in them."""

_Graphs = dict[bytes, tuple[Any, bytearray]]
"""XNNPACK's graphs and the constants that are stored with them, by what they are stored as."""


def unmistakable(config: ModelConfig, slots: int) -> int:
    """The shortest cache of at least `slots` slots whose sizes no other tensor of the decoder has."""
    query, kv, inner = config.num_attention_heads * config.head_dim, config.kv_size, config.intermediate_size
    groups = config.num_attention_heads // config.num_key_value_heads
    others = {
        1, 2, groups, config.num_attention_heads, config.num_key_value_heads, config.head_dim // 2,
        config.head_dim, config.hidden_size, query, kv, 2 * kv, query + kv, query + 2 * kv, inner, 2 * inner,
        config.vocab_size,
    }  # fmt: skip
    while slots in others or slots + 1 in others:
        slots += 1
    return slots


@contextlib.contextmanager
def deriving(template: str, slots: int, lengths: Mapping[str, int]) -> Iterator[None]:
    """Let the program that is lowered meanwhile have the decode methods that are asked for.

    Args:
        template: Name of the decode method that is lowered; the program keeps it only if `lengths` has it.
        slots: Length of its cache, which is `unmistakable` where a method has another.
        lengths: Cache length of each decode method that the program shall have, by name.

    Raises:
        HeliumEdgeError: The method is not one graph of XNNPACK with an axis over the slots.
    """
    graphs: _Graphs = {}
    plain_program = _program.serialize_for_executorch

    def keep(graph: Any, constants: bytearray) -> bytes:
        kept = copy.deepcopy(graph), constants
        data = bytes(xnnpack_graph_serialize.serialize_xnnpack_binary(graph, constants))
        graphs[data] = kept
        return data

    def derive(output: Any, *rest: Any) -> Any:
        _derive(output.program, graphs, template, slots, lengths)
        return plain_program(output, *rest)

    with (
        mock.patch.object(xnnpack_preprocess, "serialize_xnnpack_binary", keep),
        mock.patch.object(_program, "serialize_for_executorch", derive),
    ):
        yield


def _derive(program: Any, graphs: _Graphs, template: str, slots: int, lengths: Mapping[str, int]) -> None:
    """Replace the template by methods of all lengths; see `deriving`."""
    plan = next((plan for plan in program.execution_plan if plan.name == template), None)
    places = [part.processed.index for part in plan.delegates] if plan is not None else []
    held = [bytes(program.backend_delegate_data[place].data) for place in places]
    if plan is None or len(held) != 1 or held[0] not in graphs:
        outside = sorted({operator.name for operator in plan.operators}) if plan is not None else []
        raise HeliumEdgeError(
            f"method {template}: {len(held)} XNNPACK delegates and the operators {outside} outside them; shorter "
            "caches can only be derived from one delegate"
        )
    program.execution_plan.remove(plan)
    # The template's own data is the first to be replaced: unused data is refused.
    unused = places
    for name, length in lengths.items():
        made = copy.deepcopy(plan)
        made.name = name
        data = schema.BackendDelegateInlineData(data=_resized_graph(*graphs[held[0]], slots, length))
        if unused:
            program.backend_delegate_data[unused.pop()] = data
        else:
            made.delegates[0].processed.index = len(program.backend_delegate_data)
            program.backend_delegate_data.append(data)
        if length != slots:
            _resize_tensors(made, slots, length)
        program.execution_plan.append(made)
    program.execution_plan.sort(key=lambda plan: str(plan.name))


def _resized_graph(graph: Any, constants: bytearray, slots: int, length: int) -> bytes:
    """The graph of a delegate with a cache of a length, as it is stored."""
    graph = copy.deepcopy(graph)
    for value in graph.xvalues:
        tensor = getattr(value.xvalue_union, "tensor_value", value.xvalue_union)
        tensor.dims = _resized(tensor.dims, slots, length)
    for node in graph.xnodes:
        for field in _SIZES:
            if hasattr(node.xnode_union, field):
                setattr(node.xnode_union, field, _resized(getattr(node.xnode_union, field), slots, length))
    return bytes(xnnpack_graph_serialize.serialize_xnnpack_binary(in_pieces(graph), constants))


def _resize_tensors(plan: Any, slots: int, length: int) -> None:
    """Change the inputs of a method and what it computes beside its delegate; tables of RoPE stay as they are."""
    for value in plan.values:
        if isinstance(value.val, schema.Tensor) and not _is_table(value.val, slots):
            value.val.sizes = _resized(value.val.sizes, slots, length)


def _is_table(tensor: Any, slots: int) -> bool:
    """Whether a tensor is a constant with a row a slot, of which a shorter cache needs the first ones."""
    return bool(tensor.data_buffer_idx) and list(tensor.sizes[:1]) == [slots]


def _resized(sizes: list[int], slots: int, length: int) -> list[int]:
    return [length + size - slots if size in (slots, slots + 1) else size for size in sizes]
