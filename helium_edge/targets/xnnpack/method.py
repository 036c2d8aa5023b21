"""One method of a program: the few operators that turn token ids and positions into the delegate's inputs, and it.

Operators outside of the delegate are ExecuTorch's portable ones. They stay there since XNNPACK has no integers of
64 bits and no indexing; what they produce is small, and has planned memory of its own.

Shapes: T tokens, S cache slots, D head_dim, C hidden_size, V vocabulary.

Source: pytorch/executorch kernels/portable/functions.yaml, kernels/quantized/quantized.yaml (argument order).
"""

from __future__ import annotations

import torch

from helium_edge.pte.builder import MethodBuilder, ProgramBuilder
from helium_edge.pte.xnnpack_schema import BACKEND, Datatype
from helium_edge.signature import GraphSignature, TensorSpec, TextSignature
from helium_edge.targets.xnnpack.decoder import Decoder
from helium_edge.targets.xnnpack.weights import Constant, Weights

_DTYPES = {
    "int64": torch.int64, "float32": torch.float32, "float16": torch.float16, "int8": torch.int8,
}  # fmt: skip
_CACHES = {"float32": Datatype.FP32, "float16": Datatype.FP16, "int8": Datatype.QINT8}


def add_decoder(
    program: ProgramBuilder, name: str, signature: GraphSignature, weights: Weights, rows: int
) -> None:
    """Add a decoder method to a program.

    Args:
        program: The program.
        name: Of the method.
        signature: Inputs, outputs and shapes; T is a number, the cache is not batched.
        weights: Of the program.
        rows: Of the RoPE tables, which all methods share: the longest cache.
    """
    tokens, slots = int(signature.token_dim), signature.cache.cache_len
    method = program.method(name)
    inputs = {spec.name: _input(method, spec) for spec in signature.inputs()}
    ids, past_length, *rest = inputs.values()
    prologue = _Prologue(method, weights, tokens)
    x = prologue.embed(ids)
    positions = prologue.call(
        "aten::add", "out", [prologue.arange(tokens), past_length, method.number(1)], [tokens]
    )
    cos, sin = (prologue.rows(table, positions) for table in weights.rope(rows))
    hidden = prologue.call(
        "aten::ge", "Tensor_out", [prologue.arange(slots, 2), past_length], [1, slots], torch.bool
    )
    chosen = prologue.is_place(rest.pop(0)) if signature.has_last_index else None

    kind = _CACHES[signature.cache.dtype]
    decoder = Decoder(method, weights, tokens, half_cache=kind == Datatype.FP16)
    graph = decoder.graph
    width = weights.config.head_dim // 2
    stream = graph.input(x, [tokens, weights.config.hidden_size])
    decoder.set_rope(graph.input(cos, [tokens, width]), graph.input(sin, [tokens, width]))
    decoder.set_past_mask(graph.input(prologue.as_float(hidden, [1, slots]), [1, slots]))
    outputs = [_output(method, spec) for spec in signature.outputs()]
    for layer in range(signature.cache.layers):
        keys, values = (graph.input(each, signature.cache.shape, kind) for each in rest[2 * layer :][:2])
        stream, key, value = decoder.layer(stream, layer, (keys, values))
        graph.output(key, outputs[1 + 2 * layer])
        graph.output(value, outputs[2 + 2 * layer])
    if chosen is not None:
        stream = decoder.chosen_row(stream, graph.input(chosen, [1, 1, tokens]))
    logits = decoder.logits(stream)
    graph.output(graph.reshape(logits, [1, *graph.shape(logits)]), outputs[0])
    method.delegate(BACKEND, graph.finish, graph.arguments)


def add_text_method(program: ProgramBuilder, name: str, signature: TextSignature, weights: Weights) -> None:
    """Add the one method of a classifier or an encoder to a program; arguments as in `add_decoder`."""
    tokens, config = signature.tokens, weights.config
    method = program.method(name)
    (ids,) = (_input(method, spec) for spec in signature.inputs())
    prologue = _Prologue(method, weights, tokens)
    x = prologue.embed(ids)
    chosen = last_token(prologue, ids, signature.pad_token_id) if signature.task.pools else None

    decoder = Decoder(method, weights, tokens)
    graph = decoder.graph
    stream = graph.input(x, [tokens, config.hidden_size])
    cos, sin = (decoder.constant(table) for table in weights.rope(tokens))
    decoder.set_rope(cos, sin)
    for layer in range(config.num_hidden_layers):
        stream, _, _ = decoder.layer(stream, layer, None)
    if chosen is not None:
        stream = decoder.chosen_row(stream, graph.input(chosen, [1, 1, tokens]))
    (spec,) = signature.outputs()
    shape = [int(dim) for dim in spec.shape]
    graph.output(graph.reshape(decoder.logits(stream), shape), _output(method, spec))
    method.delegate(BACKEND, graph.finish, graph.arguments)


def _input(method: MethodBuilder, spec: TensorSpec) -> int:
    return method.input(_DTYPES[spec.dtype], [int(dim) for dim in spec.shape])


def _output(method: MethodBuilder, spec: TensorSpec) -> int:
    return method.output(_DTYPES[spec.dtype], [int(dim) for dim in spec.shape])


class _Prologue:
    """Operators in front of a delegate."""

    def __init__(self, method: MethodBuilder, weights: Weights, tokens: int) -> None:
        self.method = method
        self.weights = weights
        self.tokens = tokens

    def call(
        self, name: str, overload: str, args: list[int], shape: list[int], dtype: torch.dtype = torch.int64
    ) -> int:
        """Call an operator with one result in planned memory."""
        out = self.method.planned(dtype, shape)
        self.method.kernel(name, overload, [*args, out, out])
        return out

    def constant(self, constant: Constant) -> int:
        """A constant as a value of the method."""
        return self.method.constant(constant.index, constant.dtype, constant.shape)

    def arange(self, length: int, dims: int = 1) -> int:
        """0 to length - 1, int64, as the last of some axes."""
        numbers = torch.arange(length).view(*[1] * (dims - 1), length)
        return self.constant(self.weights.made(f"arange {length} {dims}", numbers))

    def as_float(self, flags: int, shape: list[int]) -> int:
        """Truth values as 0 and 1."""
        args = [flags, self.method.number(False), self.method.number(None)]
        return self.call("aten::_to_copy", "out", args, shape, torch.float32)

    def embed(self, ids: int) -> int:
        """(1, T) token ids to (T, C) float32."""
        method, table = self.method, self.weights.embedding()
        flat = method.view(torch.int64, [self.tokens])
        # The one operator whose result is no argument of its own twice: it gives another shape of the same memory.
        method.kernel("executorch_prim::et_view", "default", [ids, method.numbers([-1]), flat])
        shape = [self.tokens, self.weights.config.hidden_size]
        rows = self.constant(table.rows)
        if table.scales is None or table.scheme is None:
            args = [rows, flat, method.number(-1), method.number(False), method.number(False)]
            return self.call("aten::embedding", "out", args, shape, torch.float32)
        low, high = (-128, 127) if table.scheme.bits == 8 else (-8, 7)
        args = [
            rows, self.constant(table.scales), method.number(None), method.number(low), method.number(high), flat,
        ]  # fmt: skip
        name = "embedding_byte" if table.scheme.bits == 8 else "embedding_4bit"
        return self.call(f"quantized_decomposed::{name}", "out", args, shape, torch.float32)

    def rows(self, table: Constant, positions: int) -> int:
        """Rows (T, D/2) of a table at positions (T,)."""
        args = [self.constant(table), self.method.number(0), positions]
        return self.call("aten::index_select", "out", args, [self.tokens, table.shape[1]], torch.float32)

    def is_place(self, place: int) -> int:
        """(1, 1, T) float32: 1 at a place (1,), else 0."""
        shape = [1, 1, self.tokens]
        flags = self.call("aten::eq", "Tensor_out", [self.arange(self.tokens, 3), place], shape, torch.bool)
        return self.as_float(flags, shape)


def last_token(prologue: _Prologue, ids: int, pad: int | None) -> int:
    """(1, 1, T) float32: 1 at the token that stands for the text, as in `model.text_model.last_token`."""
    method, tokens = prologue.method, prologue.tokens
    if pad is None:
        last = torch.zeros(1, 1, tokens)
        last[..., -1] = 1.0
        return prologue.constant(prologue.weights.made("last", last))
    shape = [1, tokens]
    flags = prologue.call("aten::ne", "Scalar_out", [ids, method.number(pad)], shape, torch.bool)
    args = [flags, method.number(False), method.number(None)]
    is_text = prologue.call("aten::_to_copy", "out", args, shape)
    places = prologue.call("aten::mul", "out", [prologue.arange(tokens, 2), is_text], shape)
    args = [places, method.numbers([1]), method.number(False)]
    return prologue.is_place(prologue.call("aten::amax", "out", args, [1]))
