"""The parts of a decoder graph, found by how its values flow: for reading it back, and for cutting it.

Names of nodes and tensors are not trusted: a graph whose gate reads the tensor called `up_proj` is wrong, and this
is where it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from helium_edge.config import ModelConfig
from helium_edge.errors import BundleError
from helium_edge.model.weights import head_name
from helium_edge.signature import INPUT_IDS

_ACTIVATIONS = ("Sigmoid", "Gelu", "Relu")
_NORMS = ("RMSNormalization", "SkipSimplifiedLayerNormalization")


@dataclass(frozen=True, eq=False)
class Linear:
    """A product with a constant matrix, its bias included.

    Attributes:
        node: MatMulNBits or MatMul.
        x: What is multiplied.
        out: The result, after the bias.
        weight: Codes or real values.
        scales: None in float32.
        zero_points: None where symmetric.
        bias: None where there is none.
    """

    node: ir.Node
    x: ir.Value
    out: ir.Value
    weight: ir.Value
    scales: ir.Value | None = None
    zero_points: ir.Value | None = None
    bias: ir.Value | None = None

    @property
    def portable(self) -> bool:
        """Whether the matrix lies as (K, N), as standard operators take it."""
        return self.node.op_type == "MatMul"

    @property
    def rows(self) -> int:
        """N."""
        width = None if self.out.shape is None else self.out.shape[-1]
        if not isinstance(width, int):
            raise BundleError(f"node {self.node.name}: the width of its result is not known")
        return width


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm, with the addition in front of it.

    Attributes:
        node: The operator; of a norm in parts, the addition of eps.
        added: What is added before the norm: a residual and what a layer adds to it; one value for the first norm.
        total: The sum.
        out: The normed sum.
        gain: The gain.
    """

    node: ir.Node
    added: tuple[ir.Value, ...]
    total: ir.Value
    out: ir.Value
    gain: ir.Value

    @property
    def eps(self) -> float:
        """Added to the mean square."""
        if self.node.op_type == "Add":
            constant = self.node.inputs[1]
            assert constant is not None
            assert constant.const_value is not None
            return float(constant.const_value.numpy())
        attribute = self.node.attributes.get("epsilon")
        return 1e-5 if attribute is None else attribute.as_float()


@dataclass(frozen=True, eq=False)
class Layer:
    """One decoder layer; `qkv` is one matrix or three."""

    norm1: Norm
    qkv: tuple[Linear, ...]
    o: Linear
    norm2: Norm
    gate: Linear
    up: Linear
    down: Linear


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A decoder graph.

    Attributes:
        model: The graph.
        embedding: Result of the embedding.
        table: Constants that the embedding reads, codes or values first.
        layers: In order.
        norm: The final norm.
        head: The last product; None of a model that returns hidden states.
    """

    model: ir.Model
    embedding: ir.Value
    table: tuple[ir.Value, ...]
    layers: tuple[Layer, ...]
    norm: Norm
    head: Linear | None


def dissect(model: ir.Model, config: ModelConfig, where: str) -> Anatomy:
    """Find the parts of a decoder graph.

    Args:
        model: The graph; its weights are not read.
        config: The model.
        where: The file, for messages.

    Raises:
        BundleError: The graph is not built as ours are.
    """
    linears, norms = list(_linears(model.graph)), list(_norms(model.graph))
    count = config.num_hidden_layers
    if len(norms) != 2 * count + 1:
        raise BundleError(f"{where}: {len(norms)} norms; a model of {count} layers has {2 * count + 1}")
    products = iter(linears)
    try:
        layers = tuple(_layer(config, norms[2 * index : 2 * index + 2], products) for index in range(count))
        head = None if head_name(config) is None else next(products)
    except StopIteration:
        raise BundleError(
            f"{where}: {len(linears)} products with weights are too few for {count} layers"
        ) from None
    surplus = len(list(products))
    if surplus:
        raise BundleError(f"{where}: {surplus} products with weights more than {count} layers have")
    (embedding,) = norms[0].added
    return Anatomy(model, embedding, tuple(_table(model.graph)), layers, norms[-1], head)


def _layer(config: ModelConfig, norms: Sequence[Norm], products: Iterator[Linear]) -> Layer:
    qkv = [next(products)]
    rows = config.hidden_size + 2 * config.kv_size
    while sum(linear.rows for linear in qkv) < rows:
        qkv.append(next(products))
    o, first, second, down = next(products), next(products), next(products), next(products)
    gate, up = (second, first) if _feeds_activation(second.out) else (first, second)
    return Layer(norms[0], tuple(qkv), o, norms[1], gate, up, down)


def _linears(graph: ir.Graph) -> Iterator[Linear]:
    for node in graph:
        if node.op_type == "MatMulNBits":
            values = [*node.inputs, None, None][:4]
            x, weight, scales, zeros = values
            if x is None or weight is None or scales is None:
                continue
        elif node.op_type == "MatMul":
            x, weight = node.inputs[0], node.inputs[1]
            scales = zeros = None
            source = None if weight is None else weight.producer()
            if source is not None and source.op_type == "DequantizeLinear":
                weight, scales, zeros = [*source.inputs, None][:3]
            if x is None or weight is None or weight.const_value is None:
                continue
        else:
            continue
        out, bias = _bias(node.outputs[0])
        yield Linear(node, x, out, weight, scales, zeros, bias)


def _bias(product: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """The result after the bias, and the bias."""
    users = product.consumers()
    if len(users) == 1 and users[0].op_type == "Add":
        other = users[0].inputs[1]
        if other is not None and other.const_value is not None:
            return users[0].outputs[0], other
    return product, None


def _norms(graph: ir.Graph) -> Iterator[Norm]:
    for node in graph:
        if node.op_type == "Pow":
            yield _norm_in_parts(node)
        if node.op_type not in _NORMS:
            continue
        if node.op_type == "SkipSimplifiedLayerNormalization":
            delta, residual, gain = node.inputs[:3]
            assert delta is not None
            assert residual is not None
            assert gain is not None
            yield Norm(node, (residual, delta), node.outputs[3], node.outputs[0], gain)
            continue
        total, gain = node.inputs[:2]
        assert total is not None
        assert gain is not None
        source = total.producer()
        added: tuple[ir.Value, ...] = (total,)
        if source is not None and source.op_type == "Add":
            # Written as delta + residual.
            added = tuple(value for value in reversed(source.inputs) if value is not None)
        yield Norm(node, added, total, node.outputs[0], gain)


def _norm_in_parts(power: ir.Node) -> Norm:
    """The norm that begins with a square: gain * x / sqrt(mean(x^2) + eps)."""
    nodes = [power]
    for op_type in ("ReduceMean", "Add", "Sqrt", "Div", "Mul"):
        users = nodes[-1].outputs[0].consumers()
        if len(users) != 1 or users[0].op_type != op_type:
            raise BundleError(f"node {power.name}: a power that begins no norm")
        nodes.append(users[0])
    total, gain = power.inputs[0], nodes[-1].inputs[1]
    assert total is not None
    if nodes[4].inputs[0] is not total or gain is None or gain.const_value is None:
        raise BundleError(f"node {power.name}: a power that begins no norm")
    eps = nodes[2].inputs[1]
    if eps is None or eps.const_value is None or eps.const_value.size != 1:
        raise BundleError(f"node {nodes[2].name}: adds no constant")
    return Norm(nodes[2], (total,), total, nodes[-1].outputs[0], gain)


def _table(graph: ir.Graph) -> Iterator[ir.Value]:
    """Constants that are looked up by token: codes or values first, then scales, then zero points."""
    found: list[ir.Value] = []
    for node in graph:
        names = [value.name if value is not None else None for value in node.inputs]
        if INPUT_IDS in names and node.op_type in ("Gather", "GatherBlockQuantized"):
            found += [v for v in node.inputs if v is not None and v.const_value is not None]
    rest = sorted(found[1:], key=lambda value: value.dtype != ir.DataType.FLOAT)
    yield from [*found[:1], *rest]


def _feeds_activation(value: ir.Value) -> bool:
    return any(node.op_type in _ACTIVATIONS for node in value.consumers())
