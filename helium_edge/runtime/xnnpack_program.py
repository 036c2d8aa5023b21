"""Reads the XNNPACK programs out of a `.pte`: what each method runs, where, and with which integers.

A method of our files is one XNNPACK delegate with a few operators around it. Weights stand once in the file's
named data, whatever the number of methods.

Source: pytorch/executorch backends/xnnpack/serialization/schema.fbs and schema/program.fbs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from helium_edge.documents import first_line
from helium_edge.errors import BundleError
from helium_edge.pte import executorch_schema as program_schema
from helium_edge.pte import xnnpack_schema as graph_schema
from helium_edge.pte.file import PteFile
from helium_edge.pte.xnnpack_schema import BACKEND, Datatype, XNNFullyConnected, decode_graph
from helium_edge.quant.packing import read_embedding_4bit, unpack_codes
from helium_edge.recipe import Scheme

_KERNELS: dict[tuple[int, int], str] = {
    (Datatype.QDINT8, Datatype.QBINT4): "qd8-f32-qb4w",
    (Datatype.QDINT8, Datatype.QCINT8): "qd8-f32-qc8w",
    (Datatype.FP32, Datatype.FP32): "f32",
}


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """One quantized matrix as the file holds it: real = scale * code.

    Attributes:
        codes: (N, K) int8.
        scales: (N, G) float32; bfloat16 in the file where the codes are int4.
    """

    codes: torch.Tensor
    scales: torch.Tensor


@dataclass(frozen=True, eq=False)
class Product:
    """One product with a constant matrix in a delegate.

    Attributes:
        kernel: Types of activations, result and weights as XNNPACK spells them: `qd8-f32-qb4w` (int4 by groups),
            `qd8-f32-qc8w` (int8 by channel) or `f32`; else the two data types.
        shape: (N, K).
        weight: Codes and scales; None in float32.
        has_bias: Whether a bias is added.
    """

    kernel: str
    shape: tuple[int, int]
    weight: StoredWeight | None
    has_bias: bool


@dataclass(frozen=True)
class XnnpackMethod:
    """One method that computes.

    Attributes:
        name: Of the method.
        delegates: XNNPACK delegates that it calls.
        delegate_bytes: Their graphs, without weights.
        operators: Operators that run outside of them, in order of their calls.
        nodes: Number of XNNPACK nodes by type.
        products: Products with constant matrices, in order.
        embedding: Of a quantized embedding that is read outside, else None.
    """

    name: str
    delegates: int
    delegate_bytes: int
    operators: tuple[str, ...]
    nodes: Mapping[str, int]
    products: tuple[Product, ...]
    embedding: StoredWeight | None


@dataclass(frozen=True)
class XnnpackProgram:
    """A `.pte`.

    Attributes:
        methods: Those that compute, by name.
        constants: What the metadata methods return, by name; a list is its elements.
        weight_bytes: Of all named data, each counted once.
    """

    methods: Mapping[str, XnnpackMethod]
    constants: Mapping[str, tuple[bool | int | float | str, ...]]
    weight_bytes: int


def read_xnnpack(path: Path) -> XnnpackProgram:
    """Read a `.pte`.

    Raises:
        BundleError: Not readable, or a delegate is not one of XNNPACK's.
    """
    pte = PteFile(path)
    plans = pte.program.execution_plan
    try:
        methods = {plan.name: _read_method(pte, plan) for plan in plans if plan.delegates or plan.operators}
        constants = {plan.name: _metadata(plan) for plan in plans if plan.name not in methods}
    except (ValueError, IndexError, KeyError, AttributeError, RuntimeError) as error:  # whatever damage may cause
        raise BundleError(
            f"{path.name}: not readable as an ExecuTorch program for XNNPACK: {first_line(error)}",
            hint="`helium-edge verify` tells whether the file is damaged",
        ) from error
    segments = {entry.segment_index for entry in pte.program.named_data}
    return XnnpackProgram(methods, constants, sum(pte.segment_offset(index)[1] for index in segments))


def _read_method(pte: PteFile, plan: program_schema.ExecutionPlan) -> XnnpackMethod:
    others = [delegate.id for delegate in plan.delegates if delegate.id != BACKEND]
    if others:
        raise BundleError(f"method {plan.name}: it runs on {others[0]}, not on {BACKEND}")
    blobs = [pte.delegate(plan, index) for index in range(len(plan.delegates))]
    graphs = [_Graph(decode_graph(blob), pte) for blob in blobs]
    calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    kernels = [call for call in calls if isinstance(call, program_schema.KernelCall)]
    operators = tuple(plan.operators[call.op_index].name for call in kernels)
    embedding = None
    for name, call in zip(operators, kernels, strict=True):
        if name.startswith("quantized_decomposed::embedding_"):
            embedding = _read_embedding(pte, plan, name, call.args)
    return XnnpackMethod(
        name=plan.name,
        delegates=len(plan.delegates),
        delegate_bytes=sum(len(blob) for blob in blobs),
        operators=operators,
        nodes=dict(sum((graph.nodes() for graph in graphs), Counter[str]())),
        products=tuple(product for graph in graphs for product in graph.products()),
        embedding=embedding,
    )


class _Graph:
    """One delegate's graph."""

    def __init__(self, graph: graph_schema.XNNGraph, pte: PteFile) -> None:
        self._graph = graph
        self._pte = pte

    def nodes(self) -> Counter[str]:
        return Counter(type(node.xnode_union).__name__ for node in self._graph.xnodes)

    def products(self) -> list[Product]:
        nodes = [node.xnode_union for node in self._graph.xnodes]
        return [self._product(node) for node in nodes if isinstance(node, XNNFullyConnected)]

    def _product(self, node: XNNFullyConnected) -> Product:
        matrix = self._graph.xvalues[node.filter_id]
        types = self._graph.xvalues[node.input1_id].tensor.datatype, matrix.tensor.datatype
        rows, columns = matrix.tensor.dims
        weight, params = None, matrix.quant_params
        if isinstance(params, graph_schema.PerChannelQuant | graph_schema.PerChannelGroupQuant):
            data, scales = (
                self._constant(matrix.tensor.constant_buffer_idx),
                self._constant(params.scale_buffer_idx),
            )
            weight = stored_weight(matrix.tensor.datatype, data, scales, rows, columns)
        kernel = _KERNELS.get(types, " x ".join(str(each) for each in types))
        return Product(kernel, (rows, columns), weight, node.bias_id != graph_schema.NOTHING)

    def _constant(self, index: int) -> torch.Tensor:
        data = self._pte.named(self._graph.constant_data[index].named_key)
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def stored_weight(
    datatype: int, data: torch.Tensor, scales: torch.Tensor, rows: int, columns: int
) -> StoredWeight:
    """Codes and scales from the bytes of a matrix.

    Raises:
        BundleError: A type that is not known here.
    """
    if datatype == Datatype.QBINT4:
        real = scales.view(torch.bfloat16).to(torch.float32).view(rows, -1)
        scheme = Scheme(bits=4, group_size=columns // real.shape[1])
        return StoredWeight(unpack_codes(data.view(rows, -1), scheme, columns), real)
    if datatype == Datatype.QCINT8:
        return StoredWeight(data.view(torch.int8).view(rows, columns), scales.view(torch.float32).view(rows, 1))
    raise BundleError(f"XNNPACK weights of datatype {datatype} are not known to this version")


def _read_embedding(pte: PteFile, plan: program_schema.ExecutionPlan, name: str, args: list[int]) -> StoredWeight:
    """The first two arguments of an embedding operator: packed codes (V, ...) and scales (V,) or (V, G)."""
    codes, scales = pte.constant(plan, args[0]), pte.constant(plan, args[1])
    if codes is None or scales is None:
        raise BundleError(f"method {plan.name}: an embedding of no constants")
    scales = scales.view(codes.shape[0], -1)
    if name == "quantized_decomposed::embedding_byte":
        return StoredWeight(codes, scales)
    scheme = Scheme(bits=4, group_size=2 * codes.shape[1] // scales.shape[1])
    return StoredWeight(read_embedding_4bit(codes, scheme), scales)


def _metadata(plan: program_schema.ExecutionPlan) -> tuple[bool | int | float | str, ...]:
    """What a metadata method returns."""
    return tuple(next(iter(vars(plan.values[index].val).values())) for index in plan.outputs)
