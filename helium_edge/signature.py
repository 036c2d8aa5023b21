"""Names, dtypes and shapes of every graph input and output: the only place where they are written.

Targets, runners, the manifest, parity and the Android demo all derive from `GraphSignature`.

Shape legend (docs/shapes.md): B batch (always 1), T tokens of this call, S cache slots (`cache_len`),
Hkv key-value heads, D head_dim, V vocabulary, C hidden_size, L labels, R rows of logits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from helium_edge.config import ModelConfig
from helium_edge.tasks import Task

Phase = Literal["prefill", "decode", "any"]
CLASSIFY: Literal["classify"] = "classify"
"""Phase of the one graph of a model that takes whole texts, and the name of its method."""
CacheUpdate = Literal["in_place", "append"]
LogitsMode = Literal["last", "all"]
Role = Literal[
    "tokens", "past_length", "last_index", "attention_mask",
    "past_key", "past_value", "logits", "hidden_states", "present_key", "present_value", "new_key", "new_value",
]  # fmt: skip

INPUT_IDS = "input_ids"
PAST_LENGTH = "past_length"
LAST_INDEX = "last_index"
ATTENTION_MASK = "attention_mask"
LOGITS = "logits"
SYMBOLIC_TOKENS = "T"
"""Name of the symbolic token dimension in graphs of phase `any`."""
SYMBOLIC_ROWS = "R"
"""Name of the symbolic number of rows of logits in the same graphs, one for each entry of `last_index`."""
SYMBOLIC_TOTAL = "total"
"""Name of the symbolic mask length in the onnxruntime-genai graph."""

Dim = int | str
_WIDTHS = {"float32": 4, "float16": 2, "int8": 1}


def free_shape(role: str, shape: Sequence[Dim]) -> list[Dim]:
    """The shape of a `last_index` (1,) or of its `logits` (1, 1, V) with R in place of the one row."""
    rows = 0 if role == "last_index" else 1
    return [SYMBOLIC_ROWS if axis == rows else dim for axis, dim in enumerate(shape)]


def past_name(layer: int, kind: Literal["key", "value"]) -> str:
    """Name of a cache input."""
    return f"past_key_values.{layer}.{kind}"


def present_name(layer: int, kind: Literal["key", "value"]) -> str:
    """Name of a cache output that shares the memory of its input (`in_place`)."""
    return f"present.{layer}.{kind}"


def new_name(layer: int, kind: Literal["key", "value"]) -> str:
    """Name of a cache output that holds only the rows of this call (`append`)."""
    return f"new_key_values.{layer}.{kind}"


@dataclass(frozen=True)
class TensorSpec:
    """One graph input or output; `dtype` as numpy spells it, a str in `shape` is a symbolic dimension."""

    name: str
    role: Role
    dtype: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class CacheSpec:
    """The external KV cache: `layers` pairs of buffers owned by the caller.

    Args:
        layers: Number of decoder layers.
        num_key_value_heads: Hkv.
        cache_len: S, token slots of each buffer.
        head_dim: D.
        update: `in_place` (the kernel writes; outputs are bound to the inputs' memory) or `append` (the graph
            returns the new rows and the host copies them to slots `past_length` and up).
        batched: Whether buffers carry the leading batch dimension of 1 (ONNX) or not (ExecuTorch).
        dtype: Element type, as numpy spells it.
    """

    layers: int
    num_key_value_heads: int
    cache_len: int
    head_dim: int
    update: CacheUpdate
    batched: bool = True
    dtype: str = "float32"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one buffer: (1, Hkv, S, D), or (Hkv, S, D) when not batched."""
        inner = (self.num_key_value_heads, self.cache_len, self.head_dim)
        return (1, *inner) if self.batched else inner

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token occupies over all layers, keys and values."""
        return 2 * self.layers * self.num_key_value_heads * self.head_dim * _WIDTHS[self.dtype]

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole cache."""
        return self.bytes_per_token * self.cache_len


@dataclass(frozen=True)
class GraphSignature:
    """Inputs and outputs of one decoder graph, in the order in which the runtime takes and returns them.

    Args:
        phase: `prefill` (T = `tokens`), `decode` (T = 1) or `any` (T symbolic).
        tokens: T, or None when symbolic.
        vocab_size: V.
        cache: The external cache.
        logits: `last` returns (1, 1, V) of the position `last_index`; `all` returns (1, T, V).
        index_dtype: Element type of `past_length` and `last_index`: int32 for ONNX, int64 for ExecuTorch.
        genai: Whether the graph takes onnxruntime-genai's `attention_mask` instead of our two lengths.
    """

    phase: Phase
    tokens: int | None
    vocab_size: int
    cache: CacheSpec
    logits: LogitsMode = "last"
    index_dtype: str = "int32"
    genai: bool = False

    @property
    def token_dim(self) -> Dim:
        """T as a dimension: the number, or the symbol."""
        return SYMBOLIC_TOKENS if self.tokens is None else self.tokens

    @property
    def has_last_index(self) -> bool:
        """Whether the caller says which position's logits it wants."""
        return not self.genai and self.phase != "decode" and self.logits == "last"

    @property
    def free_rows(self) -> bool:
        """Whether `last_index` may have any number R of entries, each of which gives a row of logits."""
        return self.tokens is None and self.has_last_index

    def file_shape(self, spec: TensorSpec) -> tuple[Dim, ...]:
        """Shape in the graph's own file; that of `spec` is for one entry of `last_index`."""
        if not self.free_rows or spec.role not in ("last_index", "logits"):
            return spec.shape
        return tuple(free_shape(spec.role, spec.shape))

    def inputs(self) -> tuple[TensorSpec, ...]:
        """All inputs, in order."""
        specs = [TensorSpec(INPUT_IDS, "tokens", "int64", (1, self.token_dim))]
        if self.genai:
            specs.append(TensorSpec(ATTENTION_MASK, "attention_mask", "int64", (1, SYMBOLIC_TOTAL)))
        else:
            specs.append(TensorSpec(PAST_LENGTH, "past_length", self.index_dtype, (1,)))
        if self.has_last_index:
            specs.append(TensorSpec(LAST_INDEX, "last_index", self.index_dtype, (1,)))
        for layer in range(self.cache.layers):
            specs.append(TensorSpec(past_name(layer, "key"), "past_key", self.cache.dtype, self.cache.shape))
            specs.append(TensorSpec(past_name(layer, "value"), "past_value", self.cache.dtype, self.cache.shape))
        return tuple(specs)

    def outputs(self) -> tuple[TensorSpec, ...]:
        """All outputs, in order; logits come first."""
        rows: Dim = self.token_dim if self.logits == "all" else 1
        return (TensorSpec(LOGITS, "logits", "float32", (1, rows, self.vocab_size)), *self._cache_outputs())

    def _cache_outputs(self) -> Iterator[TensorSpec]:
        for layer in range(self.cache.layers):
            if self.cache.update == "in_place":
                yield TensorSpec(present_name(layer, "key"), "present_key", self.cache.dtype, self.cache.shape)
                yield TensorSpec(present_name(layer, "value"), "present_value", self.cache.dtype, self.cache.shape)
            else:
                rows = (self.cache.num_key_value_heads, self.token_dim, self.cache.head_dim)
                yield TensorSpec(new_name(layer, "key"), "new_key", self.cache.dtype, rows)
                yield TensorSpec(new_name(layer, "value"), "new_value", self.cache.dtype, rows)


@dataclass(frozen=True)
class TextSignature:
    """Input and output of the graph of a classifier or encoder: one pass over a static number of tokens, no cache.

    Args:
        task: What it returns.
        tokens: T.
        vocab_size: V.
        hidden_size: C.
        labels: L, 0 where hidden states are returned.
        pad_token_id: Id of padding, which the graph of a sequence classifier looks for.
    """

    task: Task
    tokens: int
    vocab_size: int
    hidden_size: int
    labels: int
    pad_token_id: int | None

    phase = CLASSIFY
    logits: LogitsMode = "all"
    genai = False
    free_rows = False

    @property
    def token_dim(self) -> int:
        """T."""
        return self.tokens

    def file_shape(self, spec: TensorSpec) -> tuple[Dim, ...]:
        """Shape in the graph's own file."""
        return spec.shape

    def inputs(self) -> tuple[TensorSpec, ...]:
        """The token ids."""
        return (TensorSpec(INPUT_IDS, "tokens", "int64", (1, self.tokens)),)

    def outputs(self) -> tuple[TensorSpec, ...]:
        """(1, L) logits of the text, (1, T, L) logits of the tokens, or (1, T, C) hidden states."""
        shape = self.task.returned_shape(self.tokens, self.labels or self.hidden_size)
        return (TensorSpec(self.task.output, self.task.role, "float32", shape),)


def returned_bytes(signatures: Iterable[GraphSignature | TextSignature]) -> int:
    """Bytes of what methods of static shapes return, each of which has memory of its own for it."""
    return sum(
        _WIDTHS[spec.dtype] * math.prod(int(dim) for dim in spec.shape)
        for signature in signatures
        for spec in signature.outputs()
    )


def text_signature(config: ModelConfig, tokens: int) -> TextSignature:
    """The signature of a classifier or encoder, for texts of `tokens` tokens."""
    return TextSignature(
        config.task, tokens, config.vocab_size, config.hidden_size, len(config.labels), config.pad_token_id
    )


@dataclass(frozen=True)
class DecoderSpec:
    """What a host must know to run the decoder graphs of one bundle.

    Args:
        vocab_size: V.
        cache: The external cache.
        prefill_len: T of the prefill graph.
        logits: Which positions the graphs return logits of.
    """

    vocab_size: int
    cache: CacheSpec
    prefill_len: int
    logits: LogitsMode = "last"


def cache_spec(
    config: ModelConfig, cache_len: int, update: CacheUpdate, *, batched: bool = True, dtype: str = "float32"
) -> CacheSpec:
    """The cache of a model at a context length."""
    return CacheSpec(
        layers=config.num_hidden_layers,
        num_key_value_heads=config.num_key_value_heads,
        cache_len=cache_len,
        head_dim=config.head_dim,
        update=update,
        batched=batched,
        dtype=dtype,
    )
