"""Reads the XNNPACK programs out of a `.pte`: what each method runs, where, and with which integers.

A method of our files is one XNNPACK delegate with a few operators around it. Weights stand once in the file's
named data, whatever the number of methods.

Source: pytorch/executorch backends/xnnpack/serialization (schema.fbs, xnnpack_graph_serialize.py) and
exir/_serialize/_program.py.
"""

from __future__ import annotations

import importlib
import importlib.resources
import json
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from helium_edge.errors import BundleError
from helium_edge.quant.packing import read_embedding_4bit, unpack_codes
from helium_edge.recipe import Scheme
from helium_edge.runtime.executorch_library import require_executorch
from helium_edge.runtime.quiet import quiet

BACKEND = "XnnpackBackend"

_KERNELS = {
    ("xnn_datatype_qdint8", "xnn_datatype_qbint4"): "qd8-f32-qb4w",
    ("xnn_datatype_qdint8", "xnn_datatype_qcint8"): "qd8-f32-qc8w",
    ("xnn_datatype_fp32", "xnn_datatype_fp32"): "f32",
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
        MissingDependencyError: executorch is not installed.
    """
    require_executorch("reading an ExecuTorch bundle")
    try:
        with quiet():
            serialization = importlib.import_module("executorch.exir._serialize._program")
            file = serialization.deserialize_pte_binary(path.read_bytes())
            plans = file.program.execution_plan
            methods = {plan.name: _read_method(file, plan) for plan in plans if plan.delegates or plan.operators}
    except (BundleError, OSError, MemoryError):
        raise
    except Exception as error:  # the reader raises whatever a damaged file makes it meet
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BundleError(
            f"{path.name}: not readable as an ExecuTorch program for XNNPACK: {first}",
            hint="`helium-edge verify` tells whether the file is damaged",
        ) from error
    constants = {plan.name: _constant(plan) for plan in plans if plan.name not in methods}
    buffers = file.named_data.buffers if file.named_data else []
    return XnnpackProgram(methods, constants, sum(len(buffer) for buffer in buffers))


def _read_method(file: Any, plan: Any) -> XnnpackMethod:
    others = [delegate.id for delegate in plan.delegates if delegate.id != BACKEND]
    if others:
        raise BundleError(f"method {plan.name}: it runs on {others[0]}, not on {BACKEND}")
    blobs = [bytes(file.program.backend_delegate_data[item.processed.index].data) for item in plan.delegates]
    graphs = [_Graph(blob, file.named_data) for blob in blobs]
    calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    kernels = [call for call in calls if hasattr(call, "op_index")]
    operators = tuple(plan.operators[call.op_index].name for call in kernels)
    embedding = None
    for name, call in zip(operators, kernels, strict=True):
        if name.startswith("quantized_decomposed::embedding_"):
            embedding = _read_embedding(file.program, plan, name, call.args)
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
    """One delegate's graph: nodes and values as XNNPACK's schema names them."""

    def __init__(self, blob: bytes, named_data: Any) -> None:
        self._data = decode_delegate(blob)
        self._named = named_data

    def nodes(self) -> Counter[str]:
        return Counter(node["xnode_union_type"] for node in self._data["xnodes"])

    def products(self) -> list[Product]:
        linear = [node for node in self._data["xnodes"] if node["xnode_union_type"] == "XNNFullyConnected"]
        return [self._product(node["xnode_union"]) for node in linear]

    def _product(self, node: dict[str, Any]) -> Product:
        matrix = self._data["xvalues"][node["filter_id"]]["xvalue_union"]
        tensor = _tensor(matrix)
        activations = _tensor(self._data["xvalues"][node["input1_id"]]["xvalue_union"])
        types = activations["datatype"], tensor["datatype"]
        rows, columns = tensor["dims"]
        weight = None
        if "quant_params" in matrix:
            data = self._constant(tensor["constant_buffer_idx"])
            scales = self._constant(matrix["quant_params"]["scale_buffer_idx"])
            weight = stored_weight(tensor["datatype"], data, scales, rows, columns)
        # An absent bias has the largest id.
        has_bias = node["bias_id"] < len(self._data["xvalues"])
        return Product(_KERNELS.get(types, " x ".join(types)), (rows, columns), weight, has_bias)

    def _constant(self, index: int) -> torch.Tensor:
        key = self._data["constant_data"][index]["named_key"]
        entry = self._named.pte_data[key]
        return torch.frombuffer(bytearray(self._named.buffers[entry.buffer_index]), dtype=torch.uint8)


def _tensor(value: dict[str, Any]) -> dict[str, Any]:
    tensor: dict[str, Any] = value.get("tensor_value", value)
    return tensor


def stored_weight(
    datatype: str, data: torch.Tensor, scales: torch.Tensor, rows: int, columns: int
) -> StoredWeight:
    """Codes and scales from the bytes of a matrix.

    Raises:
        BundleError: A type that is not known here.
    """
    if datatype == "xnn_datatype_qbint4":
        real = scales.view(torch.bfloat16).to(torch.float32).view(rows, -1)
        scheme = Scheme(bits=4, group_size=columns // real.shape[1])
        return StoredWeight(unpack_codes(data.view(rows, -1), scheme, columns), real)
    if datatype == "xnn_datatype_qcint8":
        return StoredWeight(data.view(torch.int8).view(rows, columns), scales.view(torch.float32).view(rows, 1))
    raise BundleError(f"XNNPACK weights of type {datatype} are not known to this version")


def _read_embedding(program: Any, plan: Any, name: str, args: list[int]) -> StoredWeight:
    """The first two arguments of an embedding operator: packed codes (V, ...) and scales (V,) or (V, G)."""
    codes, scales = (_planned_constant(program, plan.values[index].val) for index in args[:2])
    scales = scales.view(torch.float32).view(codes.shape[0], -1)
    if name == "quantized_decomposed::embedding_byte":
        return StoredWeight(codes.view(torch.int8), scales)
    scheme = Scheme(bits=4, group_size=2 * codes.shape[1] // scales.shape[1])
    return StoredWeight(read_embedding_4bit(codes, scheme), scales)


def _planned_constant(program: Any, tensor: Any) -> torch.Tensor:
    """A constant of the program as bytes, (rows, bytes of a row)."""
    storage = bytes(program.constant_buffer[tensor.data_buffer_idx].storage)
    return torch.frombuffer(bytearray(storage), dtype=torch.uint8).view(tensor.sizes[0], -1)


def _constant(plan: Any) -> tuple[Any, ...]:
    """What a metadata method returns."""
    values = [plan.values[index].val for index in plan.outputs]
    return tuple(next(iter(vars(value).values())) for value in values)


def decode_delegate(blob: bytes) -> dict[str, Any]:
    """A delegate's flatbuffer as JSON, by the schema and the compiler that come with executorch."""
    serialize = importlib.import_module("executorch.backends.xnnpack.serialization.xnnpack_graph_serialize")
    compiler = importlib.import_module("executorch.exir._serialize._flatbuffer")
    header = serialize.XNNHeader.from_bytes(blob[: serialize.XNNHeader.EXPECTED_LENGTH])
    graph = blob[header.flatbuffer_offset :][: header.flatbuffer_size]
    schema = importlib.resources.files("executorch.backends.xnnpack.serialization").joinpath("schema.fbs")
    with tempfile.TemporaryDirectory(prefix="helium-edge-") as name:
        folder = Path(name)
        (folder / "schema.fbs").write_bytes(schema.read_bytes())
        (folder / "graph.bin").write_bytes(graph)
        compiler._flatc_decompile(name, str(folder / "schema.fbs"), str(folder / "graph.bin"))
        text = (folder / "graph.json").read_text(encoding="utf-8")
    # A clamp without a bound has an infinite one, which the compiler spells its own way.
    data: dict[str, Any] = json.loads(re.sub(r"(?<=: )(-?)inf(?=[,\s}])", r"\1Infinity", text))
    return data
