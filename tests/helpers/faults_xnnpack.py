"""Faults planted into the `.pte` of an XNNPACK bundle, by editing its bytes or the graphs of its delegates."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from helium_edge.config import ModelConfig
from helium_edge.model.kv_cache import SIDES, Side
from helium_edge.model.rope import restore_interleaved_rows, rope_tables
from helium_edge.pte.executorch_schema import Tensor
from helium_edge.pte.file import PteFile
from helium_edge.pte.xnnpack_schema import (
    PerChannelGroupQuant,
    PerChannelQuant,
    PerTensorQuant,
    XNNGraph,
    XNNStaticSlice,
)
from helium_edge.targets.xnnpack.anatomy import Anatomy, Product, dissect
from helium_edge.targets.xnnpack.cache_readback import scale_constants
from tests.helpers.faults import WRONG_EPS, WRONG_THETA, swap_nibbles
from tests.helpers.pte import EditedPte

Array = npt.NDArray[Any]
PROGRAM = "decoder.pte"


def _anatomy(folder: Path, method: str = "prefill") -> Anatomy:
    return dissect(PteFile(folder / PROGRAM), method, ModelConfig.from_file(folder / "config.json"))


def _edit(folder: Path, place: tuple[int, int], dtype: Any, edit: Callable[[Array], Array]) -> None:
    """Replace bytes of the file, given by the first one and their number."""
    start, length = place
    with (folder / PROGRAM).open("r+b") as file:
        file.seek(start)
        old = np.frombuffer(file.read(length), dtype).copy()
        new = np.ascontiguousarray(edit(old)).tobytes()
        assert len(new) == length
        file.seek(start)
        file.write(new)


def _matrix(folder: Path, product: Callable[[Anatomy], Product], *, scales: bool = False) -> tuple[int, int]:
    """Where the codes or the scales of a matrix lie in the file."""
    anatomy = _anatomy(folder)
    delegate, value = anatomy.delegate, anatomy.delegate.graph.xvalues[product(anatomy).weight]
    params = value.quant_params
    assert isinstance(params, PerChannelQuant | PerChannelGroupQuant)
    index = params.scale_buffer_idx if scales else value.tensor.constant_buffer_idx
    start, _ = delegate.pte.segment_offset(delegate.pte.named_segment(delegate.key(index)))
    return start, delegate.graph.constant_data[index].size


def _constant(folder: Path, method: str, value: int) -> tuple[int, int]:
    """Where a constant of the program lies in the file."""
    delegate = _anatomy(folder, method).delegate
    tensor = delegate.plan.values[value].val
    assert isinstance(tensor, Tensor)
    found = delegate.pte.constant(delegate.plan, value)
    assert found is not None
    return delegate.pte.constant_place(tensor.data_buffer_idx)[0], found.numel() * found.element_size()


def _kernel_constants(folder: Path, operator: str) -> list[tuple[str, int]]:
    """Constants that an operator outside of the delegates takes first: method and value."""
    found = []
    for method in ("prefill", "decode"):
        delegate = _anatomy(folder, method).delegate
        for name, arguments in delegate.kernels():
            if name == operator:
                found += [
                    (method, v) for v in arguments[:2] if delegate.pte.constant(delegate.plan, v) is not None
                ]
    return found


def _edit_once(folder: Path, places: list[tuple[str, int]], dtype: Any, edit: Callable[[Array], Array]) -> None:
    """Edit constants; methods may share one."""
    for place in sorted({_constant(folder, method, value) for method, value in places}):
        _edit(folder, place, dtype, edit)


def _replace(folder: Path, places: list[tuple[str, int]], edit: Callable[[Array], Array]) -> None:
    """Give values of the methods int64 constants of their own: equal ones are one constant of the file."""
    pte, edited = PteFile(folder / PROGRAM), EditedPte(folder / PROGRAM)
    for method, value in places:
        old = pte.constant(pte.plan(method), value)
        assert old is not None
        edited.set_constant(method, value, edit(old.numpy()).astype(np.int64).tobytes())
    edited.save()


def rewrite(folder: Path, edit: Callable[[str, Anatomy, XNNGraph], None]) -> None:
    """Replace the graphs of all delegates: `edit` gets the method, its parts and the graph."""
    edited = EditedPte(folder / PROGRAM)
    for method in ("prefill", "decode"):
        parts = _anatomy(folder, method)
        edited.edit_graph(method, functools.partial(edit, method, parts))
    edited.save()


# -- faults in the weights


def swapped_nibbles(folder: Path, layer: int) -> None:
    """The nibbles of o_proj the wrong way round."""
    _edit(folder, _matrix(folder, lambda a: a.layers[layer].o), np.uint8, swap_nibbles)


def transposed_scales(folder: Path, layer: int) -> None:
    """The scales of down_proj in the order of the other axis."""
    rows = ModelConfig.from_file(folder / "config.json").hidden_size
    place = _matrix(folder, lambda a: a.layers[layer].down, scales=True)
    _edit(folder, place, np.uint16, lambda a: a.reshape(rows, -1).T.reshape(-1))


def scale_off(folder: Path, layer: int) -> None:
    """One scale of o_proj some 2 % too large, as far as bfloat16 goes."""

    def edit(array: Array) -> Array:
        values = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
        index = len(array) // 2 + 1
        values[index] = values[index] * 1.02
        return values.view(torch.int16).numpy()

    _edit(folder, _matrix(folder, lambda a: a.layers[layer].o, scales=True), np.uint16, edit)


def rope_rows(folder: Path, layer: int) -> None:
    """The rows of q and k as the checkpoint has them, for pairs (2i, 2i+1), where the graph turns (i, i + D/2)."""
    config = ModelConfig.from_file(folder / "config.json")
    turned = config.hidden_size + config.kv_size

    def edit(array: Array) -> Array:
        rows = torch.from_numpy(array.reshape(turned + config.kv_size, -1))
        rows[:turned] = restore_interleaved_rows(rows[:turned].clone(), config.head_dim)
        return rows.numpy()

    for scales in (False, True):
        place = _matrix(folder, lambda a: a.layers[layer].qkv[0], scales=scales)
        _edit(folder, place, np.int16 if scales else np.uint8, edit)


def head_zeroed(folder: Path, layer: int) -> None:
    """The last key-value head has no values."""
    config = ModelConfig.from_file(folder / "config.json")

    def edit(array: Array) -> Array:
        rows = array.reshape(config.hidden_size + 2 * config.kv_size, -1)
        rows[-config.head_dim :] = 0x88  # two codes of 0
        return rows

    _edit(folder, _matrix(folder, lambda a: a.layers[layer].qkv[0]), np.uint8, edit)


def eps_1e_5(folder: Path, layer: int) -> None:
    """The eps of other models."""
    places = []
    for method in ("prefill", "decode"):
        anatomy = _anatomy(folder, method)
        argument = anatomy.delegate.argument(anatomy.layers[layer].norm1.eps)
        assert argument is not None
        places.append((method, argument))
    _edit_once(folder, places, np.float32, lambda a: np.full_like(a, WRONG_EPS))


def wrong_theta(folder: Path, layer: int) -> None:
    """RoPE tables of another theta."""
    config = ModelConfig.from_file(folder / "config.json")
    for index, place in enumerate(_kernel_constants(folder, "aten::index_select")[:2]):
        _edit_once(
            folder, [place], np.float32,
            lambda a, index=index: rope_tables(
                WRONG_THETA, config.head_dim, a.size * 2 // config.head_dim
            )[index].numpy(),
        )  # fmt: skip


def mask_one_long(folder: Path, layer: int) -> None:
    """The first slot after the cached tokens is seen as well."""
    _replace(folder, _kernel_constants(folder, "aten::ge"), lambda a: a - 1)


def position_off(folder: Path, layer: int) -> None:
    """New tokens are turned to one position further."""
    _replace(folder, _kernel_constants(folder, "aten::add"), lambda a: a + 1)


def last_index_off(folder: Path, layer: int) -> None:
    """The logits are those of the token before the last."""
    _replace(folder, _kernel_constants(folder, "aten::eq"), lambda a: a + 1)


# -- faults in the scales of an int8 cache


def _cache_constants(folder: Path, layer: int, side: Side, *, inverse: bool) -> list[tuple[str, int]]:
    """What new rows (`inverse`), or queries and the result of attention are multiplied by: method and value."""
    places = []
    for method in ("prefill", "decode"):
        anatomy = _anatomy(folder, method)
        argument = anatomy.delegate.argument(scale_constants(anatomy, layer)[0 if inverse else 1][side])
        assert argument is not None
        places.append((method, argument))
    return places


def _cache_constant(folder: Path, layer: int, side: Side, *, inverse: bool) -> Array:
    (method, value), _ = _cache_constants(folder, layer, side, inverse=inverse)
    delegate = _anatomy(folder, method).delegate
    found = delegate.pte.constant(delegate.plan, value)
    assert found is not None
    return found.flatten().numpy()


def cache_scales_swapped(folder: Path, layer: int) -> None:
    """Keys are scaled as values, and values as keys."""
    for inverse in (True, False):
        keys, values = (_cache_constant(folder, layer, side, inverse=inverse) for side in SIDES)
        for side, other in (("key", values), ("value", keys)):
            places = _cache_constants(folder, layer, side, inverse=inverse)
            _edit_once(folder, places, np.float32, lambda _, other=other: other)


def cache_scale_off(folder: Path, layer: int) -> None:
    """The scale of one channel of the values is half of what it should be, wherever it stands."""
    config = ModelConfig.from_file(folder / "config.json")
    group, dim = config.num_attention_heads // config.num_key_value_heads, config.head_dim

    def edit(array: Array, heads: int, factor: float) -> Array:
        array.reshape(-1, dim)[heads : 2 * heads, 5] *= np.float32(factor)
        return array

    for heads, factor in ((1, 2.0), (group, 0.5)):
        places = _cache_constants(folder, layer, "value", inverse=factor > 1)
        _edit_once(folder, places, np.float32, lambda a, heads=heads, factor=factor: edit(a, heads, factor))


def key_scales_of_a_head_lost(folder: Path, layer: int) -> None:
    """The queries of one head are not multiplied by the scales of its keys."""
    dim = ModelConfig.from_file(folder / "config.json").head_dim

    def edit(array: Array) -> Array:
        array[-dim:] = 1
        return array

    _edit_once(folder, _cache_constants(folder, layer, "key", inverse=False), np.float32, edit)


def value_scales_elsewhere(folder: Path, layer: int) -> None:
    """The result of attention is multiplied by the scales of the layer before."""
    other = _cache_constant(folder, layer - 1, "value", inverse=False)
    _edit_once(folder, _cache_constants(folder, layer, "value", inverse=False), np.float32, lambda _: other)


def cache_read_otherwise(folder: Path, layer: int) -> None:
    """A code of the values counts half when the cache is read."""

    def edit(method: str, parts: Anatomy, graph: XNNGraph) -> None:
        past = parts.delegate.plan.inputs[-2 * len(parts.layers) :][2 * layer + 1]
        params = graph.xvalues[parts.delegate.value_of(past)].quant_params
        assert isinstance(params, PerTensorQuant)
        params.scale = 0.5

    rewrite(folder, edit)


# -- faults in the graphs


def gate_up_swapped(folder: Path, layer: int) -> None:
    """The activation is that of up."""

    def edit(method: str, parts: Anatomy, graph: XNNGraph) -> None:
        outs = {product.out for product in parts.layers[layer].gate_up}
        nodes = [node.xnode_union for node in graph.xnodes]
        first, second = (node for node in nodes if isinstance(node, XNNStaticSlice) and node.input_id in outs)
        first.offsets, second.offsets = second.offsets, first.offsets

    rewrite(folder, edit)


def decode_elsewhere(folder: Path, layer: int) -> None:
    """The decode method alone reads o_proj of the layer before."""

    def edit(method: str, parts: Anatomy, graph: XNNGraph) -> None:
        if method != "decode":
            return
        ours, theirs = parts.layers[layer].o.weight, parts.layers[layer - 1].o.weight
        mine, other = (graph.xvalues[value].tensor.constant_buffer_idx for value in (ours, theirs))
        graph.constant_data[mine].named_key = graph.constant_data[other].named_key

    rewrite(folder, edit)


XNNPACK_FAULTS: dict[str, Callable[[Path, int], None]] = {
    "swapped nibbles": swapped_nibbles,
    "transposed scales": transposed_scales,
    "scale off": scale_off,
    "half-split rope": rope_rows,
    "head dropped": head_zeroed,
    "eps 1e-5": eps_1e_5,
    "wrong theta": wrong_theta,
    "mask one long": mask_one_long,
    "position off": position_off,
    "last index off": last_index_off,
    "gate and up swapped": gate_up_swapped,
    "decode elsewhere": decode_elsewhere,
    "cache scales swapped": cache_scales_swapped,
    "cache scale off": cache_scale_off,
    "key scales of a head lost": key_scales_of_a_head_lost,
    "value scales elsewhere": value_scales_elsewhere,
    "cache read otherwise": cache_read_otherwise,
}
"""By name; a fault that ONNX bundles have as well has the same name. Faults of scales are for an int8 cache."""
