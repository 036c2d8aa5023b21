"""Models of one node, run on ONNX Runtime: what a kernel makes of bytes that we packed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from onnx import TensorProto


def run_node(
    op: str,
    inputs: Sequence[tuple[str, np.ndarray | torch.Tensor | TensorProto | None]],
    attributes: Mapping[str, Any],
    *,
    domain: str = "com.microsoft",
    order: Sequence[int] = (),
) -> np.ndarray:
    """Run one node. The first input, if an array, is fed; the others are initializers, None is left out.

    `order` is the order in which the node takes the inputs, when that is another one. Returns float32.
    """
    values: list[ir.Value | None] = []
    initializers: list[ir.Value] = []
    feed: dict[str, np.ndarray] = {}
    for index, (name, data) in enumerate(inputs):
        if data is None:
            values.append(None)
            continue
        if isinstance(data, torch.Tensor):
            data = data.numpy()
        if index == 0 and isinstance(data, np.ndarray):
            tensor_type = ir.TensorType(ir.DataType.from_numpy(data.dtype))
            values.append(ir.Value(name=name, type=tensor_type, shape=ir.Shape(data.shape)))
            feed[name] = data
            continue
        tensor: ir.TensorProtocol
        if isinstance(data, TensorProto):
            data.name = name
            tensor = ir.serde.deserialize_tensor(data)
        else:
            tensor = ir.Tensor(np.ascontiguousarray(data), name=name)
        initializers.append(
            ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        )
        values.append(initializers[-1])
    output = ir.Value(name="out", type=ir.TensorType(ir.DataType.FLOAT), shape=None)
    taken = [values[index] for index in order] if order else values
    node = ir.node(op, taken, attributes, domain=domain, outputs=[output])
    graph_inputs = [value for value in values if value is not None and value.name in feed]
    imports = {"": 23, "com.microsoft": 1}
    graph = ir.Graph(
        graph_inputs, [output], nodes=[node], initializers=initializers, opset_imports=imports, name="one"
    )
    model = ir.to_proto(ir.Model(graph, ir_version=11)).SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # A constant folder would turn the node into its result before the kernel under test sees it.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, feed)[0]
    return result


def raw_tensor(data: torch.Tensor, data_type: int, shape: Sequence[int]) -> TensorProto:
    """An ONNX tensor over raw bytes."""
    return TensorProto(data_type=data_type, dims=shape, raw_data=data.numpy().tobytes())
