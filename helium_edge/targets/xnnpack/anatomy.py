"""The parts of a method of an XNNPACK program: what reads an artifact back, and where its delegate can be cut.

Parts are found by what the graph computes, not by how it was written. Weights are named data of the file; small
constants (gains, eps, masks) are constants of the program, handed in as arguments.

Source: pytorch/executorch backends/xnnpack/serialization/schema.fbs, runtime/XNNExecutor.cpp.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from helium_edge.config import ModelConfig
from helium_edge.documents import first_line
from helium_edge.errors import BundleError
from helium_edge.model.weights import head_name
from helium_edge.pte import xnnpack_schema as schema
from helium_edge.pte.executorch_schema import DelegateCall, KernelCall
from helium_edge.pte.file import PteFile
from helium_edge.pte.flatbuffer import FlatbufferError
from helium_edge.pte.xnnpack_schema import BACKEND, NOTHING, decode_graph

INPUT_FIELDS = (
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
        method: Name of the method.
        plan: The method.
        graph: What the delegate computes.
        arguments: Value of the method behind each external value of the graph, by external id.
        nodes: Of the graph, in order.
        producers: Node that computes a value, by value.
        users: Nodes that read a value, by value.
    """

    def __init__(self, pte: PteFile, method: str) -> None:
        self.pte = pte
        self.method = method
        self.plan = pte.plan(method)
        where = f"{pte.path.name}, method {method}"
        if [delegate.id for delegate in self.plan.delegates] != [BACKEND]:
            raise BundleError(f"{where}: a method of ours is one XNNPACK delegate")
        try:
            self.graph = decode_graph(pte.delegate(self.plan))
        except FlatbufferError as error:
            raise BundleError(f"{where}: not a graph of XNNPACK: {first_line(error)}") from error
        calls = [call for call in self._calls() if isinstance(call, DelegateCall)]
        if len(calls) != 1:
            raise BundleError(f"{where}: the delegate is called {len(calls)} times")
        self.arguments = calls[0].args
        self.nodes: list[Any] = [node.xnode_union for node in self.graph.xnodes]
        self.producers: dict[int, Any] = {}
        self.users: dict[int, list[Any]] = {}
        for node in self.nodes:
            self.producers[node.output_id] = node
            for value in inputs_of(node):
                self.users.setdefault(value, []).append(node)

    def _calls(self) -> Iterator[Any]:
        for chain in self.plan.chains:
            for instruction in chain.instructions:
                yield instruction.instr_args

    def kernels(self) -> Iterator[tuple[str, list[int]]]:
        """Operators outside of the delegate, in order: name and arguments."""
        for call in self._calls():
            if isinstance(call, KernelCall):
                yield self.plan.operators[call.op_index].name, call.args

    def tensor(self, value: int) -> schema.XNNTensorValue:
        """Type, shape and place of a value."""
        return self.graph.xvalues[value].tensor

    def argument(self, value: int) -> int | None:
        """Value of the method that is handed in as a value of the graph; None for one of the graph's own."""
        external = self.tensor(value).external_id
        return None if external == NOTHING else self.arguments[external]

    def value_of(self, argument: int) -> int:
        """Value of the graph that is handed in or out as a value of the method.

        Raises:
            BundleError: There is none.
        """
        for value in range(len(self.graph.xvalues)):
            if self.argument(value) == argument:
                return value
        raise BundleError(
            f"{self.pte.path.name}, method {self.method}: the delegate does not give its value {argument}"
        )

    def constant(self, value: int) -> torch.Tensor | None:
        """A constant argument or a constant of the graph, as float32; None for anything else."""
        index = self.tensor(value).constant_buffer_idx
        if index:
            return self.stored(index).view(torch.float32)
        argument = self.argument(value)
        return None if argument is None else self.pte.constant(self.plan, argument)

    def key(self, index: int) -> str:
        """Name of the data behind a constant of the graph."""
        return self.graph.constant_data[index].named_key

    def stored(self, index: int) -> torch.Tensor:
        """Bytes of a constant of the graph, a copy."""
        size = self.graph.constant_data[index].size
        return torch.frombuffer(bytearray(self.pte.named(self.key(index))[:size]), dtype=torch.uint8)


def inputs_of(node: Any) -> list[int]:
    """Values that a node reads."""
    return [value for name in INPUT_FIELDS if (value := getattr(node, name, NOTHING)) != NOTHING]


@dataclass(frozen=True, eq=False)
class Product:
    """A product with a constant matrix; values by id.

    Attributes:
        node: Of the product.
        x: What is multiplied, before its quantization.
        out: The result.
        weight: The matrix.
        bias: None where there is none.
        rows: N.
    """

    node: schema.XNNFullyConnected
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
    """A method: its layers, final norm and head; no head where hidden states are what is returned."""

    delegate: Delegate
    layers: tuple[Layer, ...]
    norm: Norm
    head: Product | None


@contextlib.contextmanager
def readable(where: str) -> Iterator[None]:
    """Turn whatever a damaged or foreign graph makes a reader meet into an error that says so.

    Raises:
        BundleError: Something was met.
    """
    try:
        yield
    except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise BundleError(
            f"{where}: the graph is not built as ours are: {first_line(error)}",
            hint="`helium-edge verify` tells whether the file is damaged",
        ) from error


def dissect(pte: PteFile, method: str, config: ModelConfig) -> Anatomy:
    """Find the parts of a method.

    Raises:
        BundleError: The method is not built as ours are.
    """
    with readable(f"{pte.path.name}, method {method}"):
        return _dissect(pte, method, config)


def _dissect(pte: PteFile, method: str, config: ModelConfig) -> Anatomy:
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
        head = None if head_name(config) is None else next(rest)
    except StopIteration:
        raise BundleError(f"{where}: {len(products)} products are too few for {count} layers") from None
    return Anatomy(delegate, tuple(layers), norms[-1], head)


def _matrices(delegate: Delegate) -> Iterator[schema.XNNFullyConnected]:
    return (node for node in delegate.nodes if isinstance(node, schema.XNNFullyConnected))


def _averages(delegate: Delegate) -> Iterator[schema.XNNFullyConnected]:
    """The mean of a norm is a product with one row."""
    return (node for node in _matrices(delegate) if _rows(delegate, node) == 1)


def _rows(delegate: Delegate, node: schema.XNNFullyConnected) -> int:
    return delegate.tensor(node.filter_id).dims[0]


def _products(delegate: Delegate) -> Iterator[Product]:
    for node in _matrices(delegate):
        rows = _rows(delegate, node)
        if rows == 1:
            continue
        x = node.input1_id
        source = delegate.producers.get(x)
        if isinstance(source, schema.XNNConvert):
            x = source.input_id
        bias = None if node.bias_id == NOTHING else node.bias_id
        yield Product(node, x, node.output_id, node.filter_id, bias, rows)


def _norm(delegate: Delegate, average: schema.XNNFullyConnected) -> Norm:
    """Follow x * x, its mean, + eps, rsqrt, * x, * gain."""
    squared = delegate.producers.get(average.input1_id)
    added = _only(delegate, average.output_id, schema.XNNAdd)
    root = _only(delegate, added.output_id, schema.XNNReciprocalSquareRoot)
    scaled = _only(delegate, root.output_id, schema.XNNMultiply)
    gained = _only(delegate, scaled.output_id, schema.XNNMultiply)
    if not isinstance(squared, schema.XNNMultiply):
        raise BundleError(f"{delegate.pte.path.name}, method {delegate.method}: a norm of no square")
    eps, gain = _other(added, average.output_id), _other(gained, scaled.output_id)
    return Norm(squared.input1_id, gained.output_id, gain, eps)


def _only(delegate: Delegate, value: int, kind: type[schema.Binary | schema.Unary]) -> Any:
    users = delegate.users.get(value, [])
    if len(users) != 1 or not isinstance(users[0], kind):
        where = f"{delegate.pte.path.name}, method {delegate.method}"
        raise BundleError(f"{where}: a norm without its {kind.__name__}")
    return users[0]


def _other(node: schema.Binary, value: int) -> int:
    return node.input2_id if node.input1_id == value else node.input1_id


def _up_first(delegate: Delegate, product: int) -> bool:
    """Of gate and up, up is the one that is multiplied without an activation."""
    node = delegate.producers[product]
    for value in inputs_of(node):
        source = delegate.producers.get(value)
        if isinstance(source, schema.XNNStaticSlice):
            return source.offsets[-1] == 0
    return False
