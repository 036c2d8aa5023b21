"""One graph, built straight from config and packed weights; read this to see what is exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import onnx_ir as ir

from helium_edge.config import ModelConfig
from helium_edge.signature import INPUT_IDS, LOGITS, GraphSignature, TextSignature
from helium_edge.targets.onnx.builder import GraphBuilder
from helium_edge.targets.onnx.common import activation, last_token, rms_norm, row_dim, select_last
from helium_edge.targets.onnx.contrib import ContribDialect
from helium_edge.targets.onnx.options import OnnxOptions
from helium_edge.targets.onnx.packed import PackedLayer, PackedMatrix, PackedModel
from helium_edge.targets.onnx.portable import PortableDialect


class Dialect(Protocol):
    """What differs between contrib and standard operators; shapes as in signature.py, C hidden_size."""

    def embed(self, ids: ir.Value) -> ir.Value:
        """(1, T) ids to (1, T, C)."""
        ...

    def linear(self, x: ir.Value, matrix: PackedMatrix) -> ir.Value:
        """(1, R, K) to (1, R, N), bias included."""
        ...

    def attention(self, layer: int, qkv: Sequence[ir.Value]) -> ir.Value:
        """Rotary embedding, cache update and attention; registers the layer's cache outputs."""
        ...

    def add_norm(self, x: ir.Value, residual: ir.Value, gain: ir.ExternalTensor) -> tuple[ir.Value, ir.Value]:
        """RMSNorm of x + residual, and that sum."""
        ...


DIALECTS: dict[str, Callable[[GraphBuilder, ModelConfig, PackedModel, OnnxOptions], Dialect]] = {
    "contrib": ContribDialect,
    "portable": PortableDialect,
}


def build_decoder(
    config: ModelConfig, model: PackedModel, signature: GraphSignature, options: OnnxOptions, name: str
) -> ir.Model:
    """Build one decoder graph over packed weights; cheap, since it refers to the weights and holds none.

    Args:
        config: The model.
        model: Its packed weights, in the layout of the dialect.
        signature: Inputs, outputs and static shapes.
        options: Dialect and accuracy levels.
        name: Name of the graph.
    """
    b = GraphBuilder(signature, older=options.older)
    dialect = DIALECTS[options.dialect](b, config, model, options)
    normed = _layers(b, dialect, config, model)
    b.scope("head")
    assert model.head is not None
    b.output(LOGITS, dialect.linear(select_last(b, signature, normed, config.hidden_size), model.head))
    return b.build(name)


def build_text_graph(
    config: ModelConfig, model: PackedModel, signature: TextSignature, options: OnnxOptions, name: str
) -> ir.Model:
    """Build the graph of a classifier or encoder; arguments as in `build_decoder`."""
    b = GraphBuilder(signature, older=options.older)
    dialect = DIALECTS[options.dialect](b, config, model, options)
    x = _layers(b, dialect, config, model)
    b.scope("head")
    (output,) = signature.outputs()
    if signature.task.pools:
        x = b.op("Gather", [x, last_token(b, signature)], (1, 1, config.hidden_size), attributes={"axis": 1})
    if model.head is not None:
        x = dialect.linear(x, model.head)
    if signature.task.pools:
        x = b.op("Squeeze", [x, b.ints(1)], output.shape)
    b.output(output.name, x)
    return b.build(name)


def _layers(b: GraphBuilder, dialect: Dialect, config: ModelConfig, model: PackedModel) -> ir.Value:
    """Embedding, layers and final norm: (1, T, C)."""
    b.scope("embedding")
    residual = dialect.embed(b.inputs[INPUT_IDS])
    b.scope("layers.0")
    normed = rms_norm(b, residual, model.layers[0].norm1, config)
    gains = [layer.norm1 for layer in model.layers[1:]] + [model.norm]
    for index, (layer, next_gain) in enumerate(zip(model.layers, gains, strict=True)):
        b.scope(f"layers.{index}.attention")
        attended = dialect.attention(index, [dialect.linear(normed, matrix) for matrix in layer.qkv])
        normed, residual = dialect.add_norm(dialect.linear(attended, layer.o), residual, layer.norm2)
        b.scope(f"layers.{index}.mlp")
        normed, residual = dialect.add_norm(_mlp(b, dialect, layer, normed, config), residual, next_gain)
    return normed


def _mlp(b: GraphBuilder, dialect: Dialect, layer: PackedLayer, x: ir.Value, config: ModelConfig) -> ir.Value:
    """down(act(gate(x)) * up(x))."""
    gate = activation(b, dialect.linear(x, layer.gate), config.hidden_act, layer.gate.n)
    product = b.op("Mul", [gate, dialect.linear(x, layer.up)], (1, row_dim(x), layer.gate.n))
    return dialect.linear(product, layer.down)
