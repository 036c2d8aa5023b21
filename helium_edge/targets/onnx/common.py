"""What both dialects emit alike: float32 linear layers, activations, and the choice of the last token."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from helium_edge.config import ModelConfig
from helium_edge.signature import INPUT_IDS, LAST_INDEX, SYMBOLIC_ROWS, Dim, GraphSignature, TextSignature
from helium_edge.targets.onnx.builder import GraphBuilder
from helium_edge.targets.onnx.packed import PackedMatrix


def row_dim(x: ir.Value) -> Dim:
    """The second dimension of a (1, R, K) value."""
    dim = x.shape[1] if x.shape is not None else 1
    return dim if isinstance(dim, int) else str(dim.value)


def add_bias(b: GraphBuilder, x: ir.Value, matrix: PackedMatrix) -> ir.Value:
    """Add the layer's bias, if it has one."""
    if matrix.bias is None:
        return x
    return b.op("Add", [x, b.weight(matrix.bias)], (1, row_dim(x), matrix.n))


def dense_linear(b: GraphBuilder, x: ir.Value, matrix: PackedMatrix) -> ir.Value:
    """A float32 linear layer: (1, R, K) to (1, R, N)."""
    product = b.op("MatMul", [x, b.weight(matrix.weight)], (1, row_dim(x), matrix.n))
    return add_bias(b, product, matrix)


def rms_norm(b: GraphBuilder, x: ir.Value, gain: ir.ExternalTensor, config: ModelConfig) -> ir.Value:
    """The standard operator: the contrib one in the default domain fails onnx.checker.

    Before opset 23 there is none, and its parts are written down in the form that onnxruntime fuses.
    """
    if b.older:
        return _rms_norm_in_parts(b, x, gain, config)
    attributes = {"axis": -1, "epsilon": config.rms_norm_eps, "stash_type": 1}
    return b.op(
        "RMSNormalization", [x, b.weight(gain)], (1, row_dim(x), config.hidden_size), attributes=attributes
    )


def _rms_norm_in_parts(b: GraphBuilder, x: ir.Value, gain: ir.ExternalTensor, config: ModelConfig) -> ir.Value:
    """RMSNorm in operators of opset 20: gain * x / sqrt(mean(x^2) + eps)."""
    shape, one = (1, row_dim(x), config.hidden_size), (1, row_dim(x), 1)
    square = b.op("Pow", [x, b.constant("two", np.array(2, np.float32))], shape)
    mean = b.op("ReduceMean", [square, b.ints(-1)], one, attributes={"keepdims": 1})
    eps = b.constant("eps", np.array(config.rms_norm_eps, np.float32))
    root = b.op("Sqrt", [b.op("Add", [mean, eps], one)], one)
    return b.op("Mul", [b.op("Div", [x, root], shape), b.weight(gain)], shape)


def activation(b: GraphBuilder, x: ir.Value, hidden_act: str, width: int) -> ir.Value:
    """The gate's activation.

    SiLU is x * sigmoid(x), which onnxruntime fuses into one kernel; it has none for the standard Swish.
    """
    shape = (1, row_dim(x), width)
    if hidden_act == "silu":
        return b.op("Mul", [x, b.op("Sigmoid", [x], shape)], shape)
    if hidden_act == "relu":
        return b.op("Relu", [x], shape)
    approximate = "tanh" if hidden_act == "gelu_pytorch_tanh" else "none"
    return b.op("Gelu", [x], shape, attributes={"approximate": approximate})


def select_last(b: GraphBuilder, signature: GraphSignature, x: ir.Value, width: int) -> ir.Value:
    """The rows whose logits are returned: (1, T, C) to (1, R, C), or x itself when all are."""
    if signature.logits == "all" or signature.tokens == 1:
        return x
    index = b.inputs[LAST_INDEX] if signature.has_last_index else b.ints(-1)
    rows = SYMBOLIC_ROWS if signature.free_rows else 1
    return b.op("Gather", [x, index], (1, rows, width), attributes={"axis": 1})


def last_token(b: GraphBuilder, signature: TextSignature) -> ir.Value:
    """Index of the last token that is no padding, (1,) int64; 0 where all are. See `text_model.last_token`."""
    if signature.pad_token_id is None:
        return b.ints(-1)
    shape, int64 = (1, signature.tokens), ir.DataType.INT64
    pad = b.constant("pad", np.array(signature.pad_token_id, np.int64))
    is_pad = b.op("Equal", [b.inputs[INPUT_IDS], pad], shape, dtype=ir.DataType.BOOL)
    positions = b.constant("positions", np.arange(signature.tokens, dtype=np.int64)[None])
    kept = b.op("Where", [is_pad, b.constant("zero64", np.array(0, np.int64)), positions], shape, dtype=int64)
    return b.op("ReduceMax", [kept, b.ints(1)], (1,), dtype=int64, attributes={"keepdims": 0})
