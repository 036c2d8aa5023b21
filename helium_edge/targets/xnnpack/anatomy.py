"""The parts of a method of an XNNPACK program: what reads an artifact back, and where its delegate can be cut.

A delegate is a graph of nodes and values, as XNNPACK's schema names them. Its weights are named data of the file;
small constants (gains, eps, masks) are constants of the program, handed in as arguments.

Source: pytorch/executorch backends/xnnpack/serialization/schema.fbs, runtime/XNNExecutor.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from helium_edge.config import ModelConfig
from helium_edge.errors import BundleError
from helium_edge.pte.file import PteFile
from helium_edge.runtime.xnnpack_program import BACKEND, decode_delegate

Node = dict[str, Any]
NOTHING = 2**32 - 1
"""The id of what is absent."""
VALUE_FIELDS = (
    "input_id",
    "input1_id",
    "input2_id",
    "input3_id",
    "input4_id",
    "input5_id",
    "filter_id",
    "bias_id",
)
"""Fields of a node that name the values it reads."""


class Delegate:
    """The graph of one method's delegate.

    Attributes:
        pte: The file.
        plan: The method.
        data: The graph as JSON data.
        arguments: Value of the method behind each external value of the graph, by external id.
    """

    def __init__(self, pte: PteFile, method: str) -> None:
        self.pte = pte
        self.method = method
        self.plan = pte.plan(method)
        where = f"{pte.path.name}, method {method}"
        if [delegate.id for delegate in self.plan.delegates] != [BACKEND]:
            raise BundleError(f"{where}: a method of ours is one XNNPACK delegate")
        self.data = decode_delegate(bytes(pte.delegate(self.plan)))
        calls = [call for call in self._calls() if hasattr(call, "delegate_index")]
        if len(calls) != 1:
            raise BundleError(f"{where}: the delegate is called {len(calls)} times")
        self.arguments: list[int] = list(calls[0].args)
        self.values = [value["xvalue_union"] for value in self.data["xvalues"]]
        self.nodes: list[Node] = self.data["xnodes"]
        self.producers: dict[int, Node] = {}
        self.users: dict[int, list[Node]] = {}
        for node in self.nodes:
            self.producers[node["xnode_union"]["output_id"]] = node
            for value in inputs_of(node):
                self.users.setdefault(value, []).append(node)

    def _calls(self) -> Iterator[Any]:
        for chain in self.plan.chains:
            for instruction in chain.instructions:
                yield instruction.instr_args

    def kernels(self) -> Iterator[tuple[str, list[int]]]:
        """Operators outside of the delegate, in order: name and arguments."""
        for call in self._calls():
            if hasattr(call, "op_index"):
                yield self.plan.operators[call.op_index].name, list(call.args)

    def tensor(self, value: int) -> dict[str, Any]:
        """Type, shape and place of a value."""
        found: dict[str, Any] = self.values[value].get("tensor_value", self.values[value])
        return found

    def argument(self, value: int) -> int | None:
        """Value of the method that is handed in as a value of the graph; None for one of the graph's own."""
        external = self.tensor(value)["external_id"]
        return None if external == NOTHING else self.arguments[external]

    def value_of(self, argument: int) -> int:
        """Value of the graph that is handed in or out as a value of the method.

        Raises:
            BundleError: There is none.
        """
        for value in range(len(self.values)):
            if self.argument(value) == argument:
                return value
        raise BundleError(
            f"{self.pte.path.name}, method {self.method}: the delegate does not give its value {argument}"
        )

    def constant(self, value: int) -> torch.Tensor | None:
        """A constant argument or a constant of the graph, as float32; None for anything else."""
        index = self.tensor(value)["constant_buffer_idx"]
        if index:
            return self.stored(index).view(torch.float32)
        argument = self.argument(value)
        return None if argument is None else self.pte.constant(self.plan, argument)

    def key(self, index: int) -> str:
        """Name of the data behind a constant of the graph."""
        name: str = self.data["constant_data"][index]["named_key"]
        return name

    def stored(self, index: int) -> torch.Tensor:
        """Bytes of a constant of the graph, a copy."""
        size = self.data["constant_data"][index]["size"]
        return torch.frombuffer(bytearray(self.pte.named(self.key(index))[:size]), dtype=torch.uint8)


def inputs_of(node: Node) -> list[int]:
    """Values that a node reads."""
    union = node["xnode_union"]
    return [union[name] for name in VALUE_FIELDS if union.get(name, NOTHING) != NOTHING]


@dataclass(frozen=True, eq=False)
class Product:
    """A product with a constant matrix; values by id.

    Attributes:
        node: XNNFullyConnected.
        x: What is multiplied, before its quantization.
        out: The result.
        weight: The matrix.
        bias: None where there is none.
        rows: N.
    """

    node: Node
    x: int
    out: int
    weight: int
    bias: int | None
    rows: int


@dataclass(frozen=True, eq=False)
class Norm:
    """A norm: the sum that it takes, its result, gain and eps; values by id."""

    total: int
    out: int
    gain: int
    eps: int


@dataclass(frozen=True, eq=False)
class Layer:
    """One decoder layer.

    Attributes:
        norm1: Before attention.
        qkv: Products, one or several.
        o: Of the attention.
        norm2: Before the MLP.
        gate_up: Products, one or several.
        up_first: Whether the rows of `up` stand before those of `gate`.
        down: Of the MLP.
    """

    norm1: Norm
    qkv: tuple[Product, ...]
    o: Product
    norm2: Norm
    gate_up: tuple[Product, ...]
    up_first: bool
    down: Product


@dataclass(frozen=True, eq=False)
class Anatomy:
    """A method: its layers, final norm and head."""

    delegate: Delegate
    layers: tuple[Layer, ...]
    norm: Norm
    head: Product


def dissect(pte: PteFile, method: str, config: ModelConfig) -> Anatomy:
    """Find the parts of a method.

    Raises:
        BundleError: The method is not built as ours are.
    """
    delegate = Delegate(pte, method)
    products, norms = list(_products(delegate)), [_norm(delegate, node) for node in _averages(delegate)]
    where, count = f"{pte.path.name}, method {method}", config.num_hidden_layers
    if len(norms) != 2 * count + 1:
        raise BundleError(f"{where}: {len(norms)} norms; a model of {count} layers has {2 * count + 1}")
    rest = iter(products)

    def take(rows: int) -> tuple[Product, ...]:
        found: list[Product] = []
        while sum(product.rows for product in found) < rows:
            found.append(next(rest))
        return tuple(found)

    layers = []
    try:
        for index in range(count):
            qkv = take(config.hidden_size + 2 * config.kv_size)
            o, gate_up = next(rest), take(2 * config.intermediate_size)
            down = next(rest)
            first = _up_first(delegate, down.x)
            layers.append(Layer(norms[2 * index], qkv, o, norms[2 * index + 1], gate_up, first, down))
        head = next(rest)
    except StopIteration:
        raise BundleError(f"{where}: {len(products)} products are too few for {count} layers") from None
    return Anatomy(delegate, tuple(layers), norms[-1], head)


def _matrices(delegate: Delegate) -> Iterator[Node]:
    return (node for node in delegate.nodes if node["xnode_union_type"] == "XNNFullyConnected")


def _averages(delegate: Delegate) -> Iterator[Node]:
    """The mean of a norm is a product with one row."""
    return (node for node in _matrices(delegate) if _rows(delegate, node) == 1)


def _rows(delegate: Delegate, node: Node) -> int:
    rows: int = delegate.tensor(node["xnode_union"]["filter_id"])["dims"][0]
    return rows


def _products(delegate: Delegate) -> Iterator[Product]:
    for node in _matrices(delegate):
        rows = _rows(delegate, node)
        if rows == 1:
            continue
        union = node["xnode_union"]
        x = union["input1_id"]
        source = delegate.producers.get(x)
        if source is not None and source["xnode_union_type"] == "XNNConvert":
            x = source["xnode_union"]["input_id"]
        bias = None if union["bias_id"] == NOTHING else union["bias_id"]
        yield Product(node, x, union["output_id"], union["filter_id"], bias, rows)


def _norm(delegate: Delegate, average: Node) -> Norm:
    """Follow x * x, its mean, + eps, rsqrt, * x, * gain."""
    squared = delegate.producers.get(average["xnode_union"]["input1_id"])
    added = _only(delegate, average["xnode_union"]["output_id"], "XNNAdd")
    root = _only(delegate, added["xnode_union"]["output_id"], "XNNReciprocalSquareRoot")
    scaled = _only(delegate, root["xnode_union"]["output_id"], "XNNMultiply")
    gained = _only(delegate, scaled["xnode_union"]["output_id"], "XNNMultiply")
    if squared is None:
        raise BundleError(f"{delegate.pte.path.name}, method {delegate.method}: a norm of no square")
    eps = _other(added, average["xnode_union"]["output_id"])
    gain = _other(gained, scaled["xnode_union"]["output_id"])
    return Norm(squared["xnode_union"]["input1_id"], gained["xnode_union"]["output_id"], gain, eps)


def _only(delegate: Delegate, value: int, kind: str) -> Node:
    users = delegate.users.get(value, [])
    if len(users) != 1 or users[0]["xnode_union_type"] != kind:
        raise BundleError(f"{delegate.pte.path.name}, method {delegate.method}: a norm without its {kind}")
    return users[0]


def _other(node: Node, value: int) -> int:
    union = node["xnode_union"]
    other: int = union["input2_id"] if union["input1_id"] == value else union["input1_id"]
    return other


def _up_first(delegate: Delegate, product: int) -> bool:
    """Of gate and up, up is the one that is multiplied without an activation."""
    node = delegate.producers[product]
    for value in inputs_of(node):
        source = delegate.producers.get(value)
        if source is not None and source["xnode_union_type"] == "XNNStaticSlice":
            return bool(source["xnode_union"]["offsets"][-1] == 0)
    return False
