"""Methods of other shapes, made from one that is lowered already: seconds instead of minutes.

Two decode methods differ in nothing but the sizes of what has an axis over the slots of the cache, and two prefill
methods in those over the tokens. One of each is lowered, and in copies of its program these sizes are replaced.
Everything else is shared: weights, gains, and the tables of RoPE, of which a shorter cache uses the first rows.
Attention of few tokens over a long cache is then put in pieces (`pieces.py`).

Imported only where executorch is loaded.

Shapes: T tokens, S cache slots, G query heads of one key-value head; of the lowered method or of a copy.

Source: pytorch/executorch backends/xnnpack/serialization/xnnpack_graph_schema.py, exir/schema.py.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from unittest import mock

from executorch.backends.xnnpack import xnnpack_preprocess
from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize
from executorch.exir import schema
from executorch.exir.program import _program
from executorch.exir.scalar_type import ScalarType

from helium_edge.config import ModelConfig
from helium_edge.errors import HeliumEdgeError
from helium_edge.model.decoder import causal_mask
from helium_edge.signature import GraphSignature
from helium_edge.targets.xnnpack.pieces import MOST_ROWS, in_pieces

_SIZES = ("sizes", "offsets", "new_shape")
"""Fields of XNNPACK's nodes that are shapes or places in them."""

_Graphs = dict[bytes, tuple[Any, bytearray]]
"""XNNPACK's graphs and the constants that are stored with them, by what they are stored as."""


@dataclass(frozen=True)
class Template:
    """A method that is lowered for others to be made of; the program keeps it only if it is one of them.

    Attributes:
        name: Of the method.
        signature: Of the method; see `template`.
        wanted: Signatures that the program shall have, by the name of their method: of the same phase.
    """

    name: str
    signature: GraphSignature
    wanted: Mapping[str, GraphSignature]


def template(config: ModelConfig, name: str, wanted: Mapping[str, GraphSignature]) -> Template:
    """What to lower for methods that differ in the tokens of a prefill, or in the cache of a decode step.

    It has the sizes of the one with that name, unless another differs and a tensor that does not change has the
    same size: then those of the next longer one without such a tensor.
    """
    signature = wanted[name]
    while any(_mistakable(config, signature, other) for other in wanted.values()):
        if signature.phase == "decode":
            cache = dataclasses.replace(signature.cache, cache_len=signature.cache.cache_len + 1)
            signature = dataclasses.replace(signature, cache=cache)
        else:
            signature = dataclasses.replace(signature, tokens=int(signature.token_dim) + 1)
    return Template(name, signature, wanted)


def _mistakable(config: ModelConfig, signature: GraphSignature, other: GraphSignature) -> bool:
    """Whether a size that another signature changes is one that stays as well, or becomes two."""
    found, others = _sizes(config, signature), _sizes(config, other)
    changed = {size for size, new in zip(found, others, strict=True) if size != new}
    same = {size for size, new in zip(found, others, strict=True) if size == new}
    pairs = {(size, new) for size, new in zip(found, others, strict=True) if size in changed}
    query, kv, inner = config.num_attention_heads * config.head_dim, config.kv_size, config.intermediate_size
    fixed = {
        1, 2, config.num_attention_heads, config.num_key_value_heads, config.head_dim // 2, config.head_dim,
        config.num_attention_heads + config.num_key_value_heads,
        config.num_attention_heads + 2 * config.num_key_value_heads,
        config.hidden_size, query, kv, 2 * kv, query + kv, query + 2 * kv, inner, 2 * inner, config.vocab_size,
    }  # fmt: skip
    return bool(changed & (fixed | same)) or len(pairs) > len(changed)


def _sizes(config: ModelConfig, signature: GraphSignature) -> tuple[int, int, int, int]:
    """What depends on tokens and slots: tokens, query rows of a key-value head, slots, all that is attended to."""
    tokens, slots = int(signature.token_dim), signature.cache.cache_len
    return tokens, _groups(config) * tokens, slots, slots + tokens


def _groups(config: ModelConfig) -> int:
    return config.num_attention_heads // config.num_key_value_heads


@contextlib.contextmanager
def deriving(config: ModelConfig, templates: Sequence[Template]) -> Iterator[None]:
    """Let the program that is lowered meanwhile have the methods that are asked for.

    Raises:
        HeliumEdgeError: A template is not one graph of XNNPACK.
    """
    graphs: _Graphs = {}
    plain_program = _program.serialize_for_executorch

    def keep(graph: Any, constants: bytearray) -> bytes:
        kept = copy.deepcopy(graph), constants
        data = bytes(xnnpack_graph_serialize.serialize_xnnpack_binary(graph, constants))
        graphs[data] = kept
        return data

    def derive(output: Any, *rest: Any) -> Any:
        for each in templates:
            _derive(output.program, graphs, config, each)
        output.program.execution_plan.sort(key=lambda plan: str(plan.name))
        return plain_program(output, *rest)

    with (
        mock.patch.object(xnnpack_preprocess, "serialize_xnnpack_binary", keep),
        mock.patch.object(_program, "serialize_for_executorch", derive),
    ):
        yield


def _derive(program: Any, graphs: _Graphs, config: ModelConfig, given: Template) -> None:
    """Replace a template by the methods that are wanted; see `deriving`."""
    plan = next((plan for plan in program.execution_plan if plan.name == given.name), None)
    places = [part.processed.index for part in plan.delegates] if plan is not None else []
    held = [bytes(program.backend_delegate_data[place].data) for place in places]
    if plan is None or len(held) != 1 or held[0] not in graphs:
        outside = sorted({operator.name for operator in plan.operators}) if plan is not None else []
        raise HeliumEdgeError(
            f"method {given.name}: {len(held)} XNNPACK delegates and the operators {outside} outside them; others "
            "can only be derived from one delegate"
        )
    program.execution_plan.remove(plan)
    # The template's own data is the first to be replaced: unused data is refused.
    unused = places
    masks_needed = any(each.token_dim == given.signature.token_dim for each in given.wanted.values())
    old = _sizes(config, given.signature)
    for name, signature in given.wanted.items():
        made = copy.deepcopy(plan)
        made.name = name
        new = {a: b for a, b in zip(old, _sizes(config, signature), strict=True) if a != b}
        graph = _resized_graph(*graphs[held[0]], new, pieces=_sizes(config, signature)[1] <= MOST_ROWS)
        data = schema.BackendDelegateInlineData(data=graph)
        if unused:
            program.backend_delegate_data[unused.pop()] = data
        else:
            made.delegates[0].processed.index = len(program.backend_delegate_data)
            program.backend_delegate_data.append(data)
        _resize_tensors(made, given.signature.cache.cache_len, new)
        if signature.token_dim != given.signature.token_dim:
            _set_mask(program, made, config, int(signature.token_dim), in_place=not masks_needed)
            masks_needed = True
        program.execution_plan.append(made)


def _resized_graph(graph: Any, constants: bytearray, new: Mapping[int, int], *, pieces: bool) -> bytes:
    """The graph of a delegate with other sizes, as it is stored."""
    graph = copy.deepcopy(graph)
    for value in graph.xvalues:
        tensor = getattr(value.xvalue_union, "tensor_value", value.xvalue_union)
        tensor.dims = _resized(tensor.dims, new)
    for node in graph.xnodes:
        for field in _SIZES:
            if hasattr(node.xnode_union, field):
                setattr(node.xnode_union, field, _resized(getattr(node.xnode_union, field), new))
    made = in_pieces(graph) if pieces else graph
    return bytes(xnnpack_graph_serialize.serialize_xnnpack_binary(made, constants))


def _resize_tensors(plan: Any, slots: int, new: Mapping[int, int]) -> None:
    """Change the inputs of a method and what it computes beside its delegate; tables of RoPE stay as they are."""
    for value in plan.values:
        if isinstance(value.val, schema.Tensor) and not _is_table(value.val, slots):
            value.val.sizes = _resized(value.val.sizes, new)


def _is_table(tensor: Any, slots: int) -> bool:
    """Whether a tensor is a constant with a row a slot, of which a shorter cache needs the first ones."""
    return bool(tensor.data_buffer_idx) and list(tensor.sizes[:1]) == [slots]


def _set_mask(program: Any, plan: Any, config: ModelConfig, tokens: int, *, in_place: bool) -> None:
    """Give a method the mask of its new tokens over themselves: no start of a longer one, as other constants are.

    Args:
        program: Holds the constants.
        plan: The method.
        config: The model.
        tokens: T.
        in_place: Whether the mask that it had is of no use to others.
    """
    shape = [_groups(config) * tokens, tokens]
    found = [
        value.val for value in plan.values
        if isinstance(value.val, schema.Tensor) and value.val.data_buffer_idx and list(value.val.sizes) == shape
        and value.val.scalar_type == ScalarType.FLOAT
    ]  # fmt: skip
    if len(found) != 1:
        raise HeliumEdgeError(f"method {plan.name}: {len(found)} constants have the shape {shape} of its mask")
    mask = schema.Buffer(storage=bytes(causal_mask(config, tokens).numpy()))
    if in_place:
        program.constant_buffer[found[0].data_buffer_idx] = mask
        return
    found[0].data_buffer_idx = len(program.constant_buffer)
    program.constant_buffer.append(mask)


def _resized(sizes: list[int], new: Mapping[int, int]) -> list[int]:
    return [new.get(size, size) for size in sizes]
