"""What can be checked of an `.onnx` file without running it: where its weights lie, and its inputs and outputs.

A graph names its weights by file, offset and length. ONNX's own checker accepts lengths and offsets that do not
fit, and loaders differ in what they refuse, so everything is checked here before any of them sees the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir

from helium_edge.bundle.graph_sections import GraphEntry, TensorEntry
from helium_edge.documents import first_line, shorten
from helium_edge.errors import BundleError
from helium_edge.signature import free_shape

MAX_GRAPH_BYTES = 32 << 20
"""Graphs have about 13 kB a layer; their weights are in another file."""

_OPERATORS = frozenset({
    "Add", "BitShift", "BitwiseAnd", "Cast", "Concat", "DequantizeLinear", "Div", "Equal", "Floor", "Gather",
    "Gelu", "Less", "LessOrEqual", "MatMul", "Mul", "Pow", "RMSNormalization", "Range", "ReduceMax",
    "ReduceMean", "ReduceSum", "Relu", "Reshape", "RotaryEmbedding", "Shape", "Sigmoid",
    "SkipSimplifiedLayerNormalization", "Slice", "Softmax", "Split", "Sqrt", "Squeeze", "Sub", "Tile",
    "Transpose", "Unsqueeze", "Where", "com.microsoft::GatherBlockQuantized",
    "com.microsoft::GroupQueryAttention", "com.microsoft::MatMulNBits", "com.microsoft::RotaryEmbedding",
    "com.microsoft::SkipSimplifiedLayerNormalization",
})  # fmt: skip
"""Of all graphs that any version has written. None loops, calls, or makes a tensor of a size that is data, but
`Range` and `Tile`."""
_ATTRIBUTES = frozenset({
    onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT, onnx.AttributeProto.STRING, onnx.AttributeProto.INTS,
    onnx.AttributeProto.FLOATS,
})  # fmt: skip

_EXTERNAL_KEYS = frozenset({"location", "offset", "length", "checksum"})


def check_onnx_file(folder: Path, path: str, sizes: Mapping[str, int], entry: GraphEntry | None) -> int:
    """Check one graph of a bundle.

    Args:
        folder: The bundle.
        path: The graph, relative to it.
        sizes: Bytes of each file of the bundle.
        entry: What the manifest says of the graph, if anything.

    Returns:
        Number of tensors that lie outside the graph's own file.

    Raises:
        BundleError: Not an ONNX file; a tensor that is not wholly inside a listed file; other inputs or outputs
            than the manifest says.
    """
    if sizes[path] > MAX_GRAPH_BYTES:
        raise BundleError(f"{path}: {sizes[path]} bytes are too many for a graph, the limit is {MAX_GRAPH_BYTES}")
    try:
        model = onnx.load(str(folder / path), load_external_data=False)
    except Exception as error:  # protobuf's and onnx' errors have no common base
        raise BundleError(f"{path}: not readable as an ONNX graph: {first_line(error)}") from error
    problem = next(_foreign_parts(model), "")
    if problem:
        raise BundleError(f"{path}: {problem}, which no graph of helium-edge has")
    count = 0
    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            count += 1
            problem = _external_problem(tensor, path, sizes)
            if problem:
                raise BundleError(f"{path}: tensor {shorten(tensor.name)}: {problem}")
    if entry is not None:
        _check_values(path, "input", model.graph.input, entry.inputs, free_rows=entry.free_rows)
        _check_values(path, "output", model.graph.output, entry.outputs, free_rows=entry.free_rows)
    return count


def _foreign_parts(model: onnx.ModelProto) -> Iterator[str]:
    """What our graphs are not made of: other operators, functions, subgraphs, tensors as attributes."""
    if model.functions:
        yield f"has the function {shorten(model.functions[0].name)!r}"
    if model.training_info:
        yield "has parts for training"
    if model.graph.sparse_initializer:
        yield "has a sparse tensor"
    for node in model.graph.node:
        name = f"{node.domain}::{node.op_type}".removeprefix("::").removeprefix("ai.onnx::")
        if name not in _OPERATORS:
            yield f"has the operator {shorten(name)!r}"
        for attribute in node.attribute:
            if attribute.type not in _ATTRIBUTES or attribute.ref_attr_name:
                yield f"has an operator {shorten(name)!r} with the attribute {shorten(attribute.name)!r}"


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model in which `_foreign_parts` found nothing."""
    yield from model.graph.initializer


def _external_problem(tensor: onnx.TensorProto, path: str, sizes: Mapping[str, int]) -> str:
    fields = {field.key: field.value for field in tensor.external_data}
    if len(fields) != len(tensor.external_data) or not fields.keys() <= _EXTERNAL_KEYS:
        return f"external data has the fields {sorted(field.key for field in tensor.external_data)}"
    location = fields.get("location", "")
    file = str(PurePosixPath(path).parent / location)
    if file not in sizes:
        return f"its data lies in {location!r}, which is no file of the bundle"
    try:
        expected = math.ceil(math.prod(tensor.dims) * ir.DataType(tensor.data_type).bitwidth / 8)
        offset, length = int(fields.get("offset", "0")), int(fields.get("length", str(expected)))
    except (ValueError, TypeError) as error:
        return f"its data is not described in numbers: {first_line(error)}"
    if length != expected or length < 0 or offset < 0 or offset + length > sizes[file]:
        return f"its {expected} bytes are said to be {length} bytes at {offset} of {file} ({sizes[file]} bytes)"
    return ""


def _check_values(
    path: str, kind: str, found: Iterable[onnx.ValueInfoProto], listed: Iterable[TensorEntry], *, free_rows: bool
) -> None:
    in_graph = [_describe(value) for value in found]
    in_manifest = [(entry.name, entry.dtype, _shape_in_file(entry, free_rows)) for entry in listed]
    if in_graph == in_manifest:
        return
    for position, (graph, manifest) in enumerate(zip(in_graph, in_manifest, strict=False)):
        if graph != manifest:
            raise BundleError(f"{path}: {kind} {position} is {_show(graph)}, the manifest says {_show(manifest)}")
    raise BundleError(f"{path}: has {len(in_graph)} {kind}s, the manifest says {len(in_manifest)}")


def _shape_in_file(entry: TensorEntry, free_rows: bool) -> tuple[int | str, ...]:
    if free_rows and entry.role in ("last_index", "logits"):
        return tuple(free_shape(entry.role, entry.shape))
    return entry.shape


def _describe(value: onnx.ValueInfoProto) -> tuple[str, str, tuple[int | str, ...]]:
    tensor = value.type.tensor_type
    try:
        dtype = ir.DataType(tensor.elem_type).numpy().name
    except (TypeError, ValueError):
        dtype = f"type {tensor.elem_type}"
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim)
    return value.name, dtype, shape


def _show(value: tuple[str, str, tuple[int | str, ...]]) -> str:
    name, dtype, shape = value
    return f"{name} {dtype}{list(shape)}"
