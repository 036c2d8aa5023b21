"""Which tensors a config promises, of which shape, and how a checkpoint differs from that.

Names and shapes are those of transformers' classes, alike in `helium` and `llama` but for the bias of `o_proj`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from helium_edge.checkpoint.header import TensorInfo
from helium_edge.config import ModelConfig
from helium_edge.documents import shorten
from helium_edge.errors import CheckpointError

DTYPES = ("F32", "F16", "BF16")
"""Stored element types that can be read."""

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
SCORE = "score.weight"
PREFIX = "model."

_LAYER = re.compile(r"model\.layers\.(\d{1,9})\.(.+)")
_SHOWN = 3


@dataclass(frozen=True)
class ExpectedTensor:
    """The shape of a tensor and the config keys, one a dimension, that it follows from."""

    shape: tuple[int, ...]
    keys: tuple[str, ...]


def expected_modules(config: ModelConfig) -> frozenset[str]:
    """Modules outside the decoder that have weights: `lm_head` or `score`, also where it is tied."""
    weight = config.task.weight
    return frozenset() if weight is None else frozenset({weight.removesuffix(".weight")})


def expected_tensors(config: ModelConfig) -> dict[str, ExpectedTensor]:
    """Return every tensor that the config promises, in the order of the forward pass.

    A tied head is not among them, though it may be in the file.
    """
    vocab, hidden = (config.vocab_size, "vocab_size"), (config.hidden_size, "hidden_size")
    layer = _layer_tensors(config)
    expected = {EMBEDDING: _expect(vocab, hidden)}
    for index in range(config.num_hidden_layers):
        expected |= {f"model.layers.{index}.{part}": tensor for part, tensor in layer.items()}
    expected["model.norm.weight"] = _expect(hidden)
    if config.task.has_cache and not config.tie_word_embeddings:
        expected[HEAD] = _expect(vocab, hidden)
    if config.labels:
        labels = (len(config.labels), "num_labels")
        expected[SCORE] = _expect(labels, hidden)
        if config.score_bias:
            expected["score.bias"] = _expect(labels)
    return expected


def check_tensors(config: ModelConfig, found: Mapping[str, TensorInfo], *, where: str) -> dict[str, TensorInfo]:
    """Compare what the files hold with what the config promises.

    Args:
        config: The model.
        found: All tensors of all files, under the names of transformers and without the ignored ones.
        where: The file that lists them, named when one is missing.

    Returns:
        `found`, in the order of the forward pass.

    Raises:
        CheckpointError: Tensors are missing, unexpected, of a wrong shape or of a type that cannot be read.
    """
    if config.num_hidden_layers > len(found):  # before a list of that length is built
        raise CheckpointError(
            f"{where}: config.json says num_hidden_layers = {config.num_hidden_layers}, "
            f"the weights are {len(found)} tensors"
        )
    expected = expected_tensors(config)
    allowed = dict(expected)
    if config.task.has_cache and config.tie_word_embeddings:
        allowed[HEAD] = expected[EMBEDDING]
    missing = [name for name in expected if name not in found]
    if missing:
        raise _missing(config, missing, found, where, frozenset(allowed))
    extra = [tensor for name, tensor in found.items() if name not in allowed]
    if extra:
        raise _extra(config, extra)
    wrong = [tensor for name, tensor in found.items() if tensor.dtype not in DTYPES]
    if wrong:
        raise _wrong_dtype(wrong)
    misshapen = [tensor for name, tensor in found.items() if tensor.shape != allowed[name].shape]
    if misshapen:
        raise _misshapen(misshapen, allowed)
    return {name: found[name] for name in allowed if name in found}


def first_few(items: Sequence[str]) -> str:
    """Return `a, b, c and 4 more`."""
    shown = ", ".join(items[:_SHOWN])
    return f"{shown} and {len(items) - _SHOWN} more" if len(items) > _SHOWN else shown


def _expect(*dimensions: tuple[int, str]) -> ExpectedTensor:
    return ExpectedTensor(tuple(size for size, _ in dimensions), tuple(key for _, key in dimensions))


def _layer_tensors(config: ModelConfig) -> dict[str, ExpectedTensor]:
    hidden = (config.hidden_size, "hidden_size")
    query = (config.num_attention_heads * config.head_dim, "num_attention_heads * head_dim")
    key_value = (config.kv_size, "num_key_value_heads * head_dim")
    inner = (config.intermediate_size, "intermediate_size")
    rows = {"q": query, "k": key_value, "v": key_value, "gate": inner, "up": inner, "down": hidden}

    tensors = {"input_layernorm.weight": _expect(hidden)}
    for kind in "qkv":
        tensors[f"self_attn.{kind}_proj.weight"] = _expect(rows[kind], hidden)
        if config.attention_bias:
            tensors[f"self_attn.{kind}_proj.bias"] = _expect(rows[kind])
    tensors["self_attn.o_proj.weight"] = _expect(hidden, query)
    if config.o_bias:
        tensors["self_attn.o_proj.bias"] = _expect(hidden)
    tensors["post_attention_layernorm.weight"] = _expect(hidden)
    for kind in ("gate", "up", "down"):
        tensors[f"mlp.{kind}_proj.weight"] = _expect(rows[kind], inner if kind == "down" else hidden)
        if config.mlp_bias:
            tensors[f"mlp.{kind}_proj.bias"] = _expect(rows[kind])
    return tensors


def _missing(
    config: ModelConfig,
    missing: Sequence[str],
    found: Mapping[str, TensorInfo],
    where: str,
    expected: frozenset[str],
) -> CheckpointError:
    count = "1 tensor is" if len(missing) == 1 else f"{len(missing)} tensors are"
    message = f"{where}: {count} missing: {first_few(missing)}"
    if HEAD in missing and len(missing) == 1:
        hint = "a head that is the embedding needs tie_word_embeddings = true in config.json"
        return CheckpointError(message, hint=hint)
    if missing[0].startswith("score."):
        hint = f"{config.architecture} needs the weights of a trained classifier"
        return CheckpointError(message, hint=hint)
    strange = [tensor.name for name, tensor in found.items() if name not in expected]
    if EMBEDDING in missing and strange:
        unknown = first_few([shorten(name) for name in strange])
        return CheckpointError(f"{message}; found {unknown}", hint=_naming(config, strange))
    hint = _config_reason(config, missing) or _layers_reason(config, missing, found)
    return CheckpointError(message, hint=hint or "the checkpoint is incomplete: copy or save it again")


def _naming(config: ModelConfig, names: Sequence[str]) -> str:
    """What is strange about the names of all tensors."""
    ends = (EMBEDDING.removeprefix(PREFIX), "norm.weight")
    prefixes = {
        name.removesuffix(end).removesuffix(PREFIX) for end in ends for name in names if name.endswith(end)
    }
    prefix = min(prefixes, key=len, default="")
    if prefix and all(name.startswith(prefix) for name in names):
        return f"every name begins with {shorten(prefix)!r}: take it away, or save the model inside the wrapper"
    return f"these are not the names of {config.architecture} in transformers: convert the checkpoint first"


def _layers_reason(config: ModelConfig, missing: Sequence[str], found: Mapping[str, TensorInfo]) -> str:
    """Say that whole layers are missing, which config.json counts."""
    present = {match[1] for match in map(_LAYER.fullmatch, found) if match}
    lost = {match[1] for match in map(_LAYER.fullmatch, missing) if match}
    return f"config.json says num_hidden_layers = {config.num_hidden_layers}" if lost - present else ""


def _extra(config: ModelConfig, extra: Sequence[TensorInfo]) -> CheckpointError:
    names = first_few([shorten(tensor.name) for tensor in extra])
    count = "tensor" if len(extra) == 1 else f"{len(extra)} tensors"
    hint = _config_reason(config, [tensor.name for tensor in extra]) or _no_place(config, extra[0].name)
    return CheckpointError(f"{_files(extra)}: unexpected {count}: {names}", hint=hint)


def _no_place(config: ModelConfig, name: str) -> str:
    """Why a tensor of the decoder or of its head cannot be ignored."""
    module, _, part = name.rpartition(".")
    if part == "bias" and module in ("lm_head", "score"):
        return f"{module} has no bias in {config.architecture}: the weights are of another class"
    return f"{config.architecture} has no such part, and without it this would be another model"


def _config_reason(config: ModelConfig, names: Iterable[str]) -> str:
    """Say which key of config.json decides about the first name that depends on one; empty where none does."""
    for name in names:
        match = _LAYER.fullmatch(name)
        if match is None:
            continue
        if int(match[1]) >= config.num_hidden_layers:
            return f"config.json says num_hidden_layers = {config.num_hidden_layers}"
        if match[2] == "self_attn.o_proj.bias" and config.model_type == "helium":
            return "o_proj has no bias in this architecture, whatever attention_bias says"
        if match[2].endswith("_proj.bias"):
            key = "attention_bias" if match[2].startswith("self_attn.") else "mlp_bias"
            return f"config.json says {key} = {str(getattr(config, key)).lower()}"
    return ""


def _wrong_dtype(wrong: Sequence[TensorInfo]) -> CheckpointError:
    names = first_few([f"{tensor.name} is {shorten(tensor.dtype)}" for tensor in wrong])
    return CheckpointError(
        f"{_files(wrong)}: stored type not supported: {names}; allowed: {', '.join(DTYPES)}",
        hint="bring the checkpoint in float32, float16 or bfloat16; a quantized one cannot be quantized again",
    )


def _misshapen(misshapen: Sequence[TensorInfo], allowed: Mapping[str, ExpectedTensor]) -> CheckpointError:
    def describe(tensor: TensorInfo) -> str:
        expected = allowed[tensor.name]
        keys = " x ".join(expected.keys)
        return f"{tensor.name} is {shorten(str(list(tensor.shape)))}, expected {list(expected.shape)} ({keys})"

    return CheckpointError(
        f"{_files(misshapen)}: wrong shape: {first_few([describe(tensor) for tensor in misshapen])}",
        hint="config.json and the weights are not of the same model",
    )


def _files(tensors: Sequence[TensorInfo]) -> str:
    return first_few(sorted({tensor.file for tensor in tensors[:_SHOWN]}))
