"""Faults planted into published bundles: `plant(folder, fault)` edits the files of a copy in place.

Checksums no longer match then: open such a bundle with `unverified=True`. What a fault does is written in terms of
the artifact, so that it is the same whatever tests it: level L0, L1 or localisation.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from helium_edge.bundle import open_bundle
from helium_edge.config import ModelConfig
from helium_edge.model.rope import rope_tables
from helium_edge.targets.onnx.anatomy import Anatomy, dissect

Array = npt.NDArray[Any]
WRONG_EPS, WRONG_THETA = 1e-5, 10_000.0
WEIGHTS = "weights.bin"


def plant(source: Path, fault: str, folder: Path, *, layer: int = 1) -> Path:
    """Copy a bundle to `folder` and plant a fault of `ONNX_FAULTS` or `XNNPACK_FAULTS` into the copy.

    Args:
        source: The bundle, which stays as it is.
        fault: Its name.
        folder: Where the copy goes.
        layer: The layer that is hit, for faults of one layer.

    Returns:
        `folder`.
    """
    shutil.copytree(source, folder)
    target = open_bundle(folder, unverified=True).manifest.target.name
    if target == "onnx":
        ONNX_FAULTS[fault](folder, layer)
    else:
        from tests.helpers.faults_xnnpack import XNNPACK_FAULTS

        XNNPACK_FAULTS[fault](folder, layer)
    return folder


# -- tools


def graphs(folder: Path, only: tuple[str, ...] = ()) -> Iterator[tuple[Path, ir.Model]]:
    """Graphs of a bundle, saved again after the caller's edit."""
    for path in sorted(folder.glob("*.onnx")):
        if not only or path.name in only:
            model = ir.load(path)
            yield path, model
            ir.save(model, path)


def anatomy(folder: Path, model: ir.Model) -> Anatomy:
    """The parts of a graph."""
    return dissect(model, ModelConfig.from_file(folder / "config.json"), "graph")


def edit_tensor(folder: Path, name: str, edit: Callable[[Array], Array], dtype: Any = None) -> None:
    """Replace the bytes of a tensor in `weights.bin`; 4-bit types are edited as packed bytes."""
    model = ir.load(folder / "decoder.onnx")
    tensor = model.graph.initializers[name].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    start, length = tensor.offset or 0, tensor.length or 0
    packed = tensor.dtype in (ir.DataType.INT4, ir.DataType.UINT4)
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(start)
        raw = np.frombuffer(file.read(length), np.uint8 if packed else tensor.dtype.numpy()).copy()
        array = raw if packed else raw.reshape(tensor.shape.numpy())
        data = np.ascontiguousarray(edit(array)).tobytes()
        assert len(data) == length
        file.seek(start)
        file.write(data)


def swap_nibbles(array: Array) -> Array:
    """The two halves of every byte exchanged."""
    data = array.view(np.uint8)
    return ((data << 4) | (data >> 4)).view(array.dtype)


def _attention(folder: Path, model: ir.Model, layer: int) -> list[ir.Node]:
    """The nodes of a layer that rotate."""
    kinds = ("GroupQueryAttention", "RotaryEmbedding")
    nodes = [node for node in model.graph if node.op_type in kinds]
    each = len(nodes) // ModelConfig.from_file(folder / "config.json").num_hidden_layers
    return nodes[layer * each : (layer + 1) * each]


def _insert(model: ir.Model, before: ir.Node, op: str, inputs: list[ir.Value], like: ir.Value) -> ir.Value:
    out = ir.Value(name=f"fault.{op}", type=like.type, shape=like.shape)
    model.graph.insert_before(before, ir.node(op, inputs, outputs=[out], name=f"fault.{op}:node"))
    return out


def _constant(model: ir.Model, array: Array) -> ir.Value:
    tensor = ir.tensor(array, name="fault.const")
    value = ir.Value(
        name="fault.const", type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    model.graph.register_initializer(value)
    return value


# -- faults in the weights


def swapped_nibbles(folder: Path, layer: int) -> None:
    """The nibbles of o_proj the wrong way round."""
    edit_tensor(folder, f"layers.{layer}.o_proj.weight", swap_nibbles)


def transposed_scales(folder: Path, layer: int) -> None:
    """The scales of down_proj in the order of the other axis."""
    edit_tensor(folder, f"layers.{layer}.down_proj.scales", lambda a: a.T.reshape(a.shape))


def scale_off(folder: Path, layer: int) -> None:
    """One scale of o_proj 2 % too large."""

    def edit(array: Array) -> Array:
        array.flat[array.size // 2 + 1] *= np.float32(1.02)
        return array

    edit_tensor(folder, f"layers.{layer}.o_proj.scales", edit)


def gain_off(folder: Path, layer: int) -> None:
    """One norm gain 2 % too large."""

    def edit(array: Array) -> Array:
        array[3] *= np.float32(1.02)
        return array

    edit_tensor(folder, f"model.layers.{layer}.post_attention_layernorm.weight", edit)


def wrong_theta(folder: Path, layer: int) -> None:
    """RoPE tables of another theta, for all layers."""
    config = ModelConfig.from_file(folder / "config.json")
    for index, name in enumerate(("rope.cos", "rope.sin")):
        edit_tensor(
            folder, name, lambda a, index=index: rope_tables(WRONG_THETA, config.head_dim, len(a))[index].numpy()
        )


# -- faults in the graphs


def gate_up_swapped(folder: Path, layer: int) -> None:
    """The gate reads the weights of up, and up those of the gate."""
    for _, model in graphs(folder):
        parts = anatomy(folder, model).layers[layer]
        for ours, theirs in ((parts.gate.weight, parts.up.weight), (parts.gate.scales, parts.up.scales)):
            assert ours is not None
            assert theirs is not None
            first, second = ours.uses(), theirs.uses()
            for use in list(first):
                use.node.replace_input_with(use.idx, theirs)
            for use in list(second):
                use.node.replace_input_with(use.idx, ours)


def half_split_rope(folder: Path, layer: int) -> None:
    """One layer turns pairs (2i, 2i+1) where its rows are laid out for (i, i + D/2)."""
    for _, model in graphs(folder):
        for node in _attention(folder, model, layer):
            name = "rotary_interleaved" if node.op_type == "GroupQueryAttention" else "interleaved"
            node.attributes[name] = ir.AttrInt64(name, 1)


def half_split_rope_everywhere(folder: Path, layer: int) -> None:
    """The same in all layers."""
    for index in range(ModelConfig.from_file(folder / "config.json").num_hidden_layers):
        half_split_rope(folder, index)


def slot_off(folder: Path, layer: int) -> None:
    """Contrib: a layer takes the cache to be one token longer, so that it writes one slot further."""
    for _, model in graphs(folder):
        node = _attention(folder, model, layer)[-1]
        lengths = node.inputs[5]
        assert lengths is not None
        one = _constant(model, np.array([1], np.int32))
        node.replace_input_with(5, _insert(model, node, "Add", [lengths, one], lengths))


def mask_one_long(folder: Path, layer: int) -> None:
    """Portable: the first slot after the cached tokens is seen as well, in all layers."""
    for _, model in graphs(folder):
        for node in list(model.graph):
            if node.op_type == "Less":
                index, past = node.inputs
                assert index is not None
                assert past is not None
                out = _insert(model, node, "LessOrEqual", [index, past], node.outputs[0])
                node.outputs[0].replace_all_uses_with(out)
                break


def eps_1e_5(folder: Path, layer: int) -> None:
    """The eps of other models in one norm."""
    for _, model in graphs(folder):
        node = anatomy(folder, model).layers[layer].norm1.node
        node.attributes["epsilon"] = ir.AttrFloat32("epsilon", WRONG_EPS)


def head_dropped(folder: Path, layer: int) -> None:
    """What the last key-value head gives is lost on the way to o_proj."""
    config = ModelConfig.from_file(folder / "config.json")
    group = config.num_attention_heads // config.num_key_value_heads
    kept = np.ones(config.hidden_size, np.float32)
    kept[-group * config.head_dim :] = 0
    for _, model in graphs(folder):
        node = anatomy(folder, model).layers[layer].o.node
        attended = node.inputs[0]
        assert attended is not None
        node.replace_input_with(0, _insert(model, node, "Mul", [attended, _constant(model, kept)], attended))


def decode_elsewhere(folder: Path, layer: int) -> None:
    """The decode graph alone reads o_proj of the layer before."""
    for _, model in graphs(folder, ("decode.onnx",)):
        layers = anatomy(folder, model).layers
        layers[layer].o.weight.const_value = layers[layer - 1].o.weight.const_value


def last_index_off(folder: Path, layer: int) -> None:
    """The logits are those of the token before the last."""
    for _, model in graphs(folder):
        for node in list(model.graph):
            index = node.inputs[1] if node.op_type == "Gather" else None
            if index is not None and index.name == "last_index":
                one = _constant(model, np.array([1], np.int32))
                node.replace_input_with(1, _insert(model, node, "Sub", [index, one], index))


def padding_leaks(folder: Path, layer: int) -> None:
    """Portable: every new token sees all new tokens, those that come after it and the padding included."""
    for _, model in graphs(folder):
        for node in list(model.graph):
            if node.op_type == "LessOrEqual":
                seen = node.outputs[0]
                (user,) = seen.consumers()
                unseen = _insert(model, user, "Not", [seen], seen)
                user.replace_input_with(0, _insert(model, user, "Or", [seen, unseen], seen))


def cache_scales_swapped(folder: Path, layer: int) -> None:
    """An int8 cache reads and writes keys with the scales of values, and values with those of keys."""
    for _, model in graphs(folder):
        (node,) = _attention(folder, model, layer)
        keys, values = node.inputs[12], node.inputs[13]
        node.replace_input_with(12, values)
        node.replace_input_with(13, keys)


def cache_scale_off(folder: Path, layer: int) -> None:
    """The scale of one channel of the values of an int8 cache is half of what it should be."""

    def edit(array: Array) -> Array:
        array[0, 1, 0, 5] *= np.float32(0.5)
        return array

    edit_tensor(folder, f"layers.{layer}.value_scale", edit)


def rounded_before_rotation(folder: Path, layer: int) -> None:
    """Queries and keys of a float16 cache are rounded before RoPE as well, as GroupQueryAttention's own would."""
    for _, model in graphs(folder):
        node = _attention(folder, model, layer)[0]
        x = node.inputs[0]
        assert x is not None
        half = ir.Value(name="fault.half", type=ir.TensorType(ir.DataType.FLOAT16), shape=x.shape)
        back = ir.Value(name="fault.back", type=x.type, shape=x.shape)
        for source, out in ((x, half), (half, back)):
            to = {"to": ir.DataType.FLOAT16 if out is half else ir.DataType.FLOAT}
            cast = ir.node("Cast", [source], attributes=to, outputs=[out], name=f"{out.name}:node")
            model.graph.insert_before(node, cast)
        node.replace_input_with(0, back)


ONNX_FAULTS: dict[str, Callable[[Path, int], None]] = {
    "swapped nibbles": swapped_nibbles,
    "transposed scales": transposed_scales,
    "scale off": scale_off,
    "gain off": gain_off,
    "wrong theta": wrong_theta,
    "gate and up swapped": gate_up_swapped,
    "half-split rope": half_split_rope,
    "half-split rope everywhere": half_split_rope_everywhere,
    "slot off": slot_off,
    "mask one long": mask_one_long,
    "eps 1e-5": eps_1e_5,
    "head dropped": head_dropped,
    "decode elsewhere": decode_elsewhere,
    "last index off": last_index_off,
    "padding leaks": padding_leaks,
    "cache scales swapped": cache_scales_swapped,
    "cache scale off": cache_scale_off,
    "rounded before rotation": rounded_before_rotation,
}
"""By name. `slot off` is for the contrib dialect, `mask one long` and `padding leaks` are for the portable one,
faults of the cache's scales for an int8 cache, and the last for a float16 one."""
