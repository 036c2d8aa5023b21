"""Parts of the model as MIL operators; each appends to the builder where it is called.

Shapes: R rows, T tokens of this call, C hidden_size.
"""

from __future__ import annotations

import math

import numpy as np

from helium_edge.mlpackage.builder import FunctionBuilder, Value
from helium_edge.mlpackage.operators import Table, gather, slice_axis
from helium_edge.mlpackage.weights_file import Blob
from helium_edge.signature import INPUT_IDS, TextSignature

_SMALLEST_NORMAL = 2.0**-14

_ACTIVATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "silu": ("silu", {}),
    "gelu": ("gelu", {"mode": "EXACT"}),
    "gelu_pytorch_tanh": ("gelu", {"mode": "TANH_APPROXIMATION"}),
    "relu": ("relu", {}),
}


def rms_norm(b: FunctionBuilder, x: Value, gain: Blob, eps: float) -> Value:
    """RMSNorm over the last axis, (R, C) -> (R, C), that neither overflows nor loses eps in float16.

    The plain form squares x, which overflows above 256, and adds eps, which is 1e-8 in released models and 0 in
    float16. For any r > 0, with y = x r^2: x / sqrt(mean(x^2) + eps) = y / sqrt(mean(y^2) + (sqrt(eps) r^2)^2).
    Here r^2 is 1 / max(|x|), so that every |y| is at most 1 and mean(y^2) at least 1 / C; sqrt(1e-8) is 1e-4,
    which float16 has. r itself is taken, not r^2, because 1 / max(|x|) has no normal float16 above 16384 and r
    always has one. The maximum is held above sqrt(eps) and the smallest normal number, for rows of zeros.
    """
    row = (x.shape[0], 1)
    root = math.sqrt(eps)
    floor = np.array([max(root, _SMALLEST_NORMAL)], np.float16)

    def mul(one: Value | Table, other: Value) -> Value:
        return b.op("mul", np.broadcast_shapes(one.shape, other.shape), x=one, y=other)

    def inverse_root(value: Value) -> Value:
        return b.op("rsqrt", row, x=value, epsilon=np.float16(0))

    peak = b.op("reduce_max", row, x=b.op("abs", x.shape, x=x), axes=[-1], keep_dims=True)
    r = inverse_root(b.op("maximum", row, x=peak, y=floor))
    y = mul(mul(x, r), r)
    root_eps = mul(mul(np.array([root], np.float16), r), r)
    mean_square = b.op("reduce_mean", row, x=mul(y, y), axes=[-1], keep_dims=True)
    inverse = inverse_root(b.op("add", row, x=mean_square, y=mul(root_eps, root_eps)))
    return mul(mul(y, inverse), b.stored(gain, "gain"))


def last_token(b: FunctionBuilder, x: Value, signature: TextSignature) -> Value:
    """The row of the token that stands for the text, (T, C) -> (1, C); see `model.text_model.last_token`."""
    tokens, shape = signature.tokens, (1, signature.tokens)
    if signature.pad_token_id is None:
        return slice_axis(b, x, 0, tokens - 1, tokens)
    is_text = b.op("not_equal", shape, "bool", x=b.inputs[INPUT_IDS], y=signature.pad_token_id)
    counted = b.op("cast", shape, "int32", x=is_text, dtype="int32")
    positions = b.op("mul", shape, "int32", x=list(range(tokens)), y=counted)
    last = b.op("reduce_max", (1,), "int32", x=positions, axes=[-1], keep_dims=False)
    return gather(b, x, last, tokens)


def activation(b: FunctionBuilder, x: Value, hidden_act: str) -> Value:
    """The MLP's activation."""
    op_type, options = _ACTIVATIONS[hidden_act]
    return b.op(op_type, x.shape, x=x, **options)
