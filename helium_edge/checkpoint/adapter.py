"""A LoRA adapter beside its base weights: read strictly, and merged as each tensor is read.

What is merged is W + s * B A in float32, with s = alpha / r, or alpha / sqrt(r) where the adapter is
rank-stabilised, exactly as `merge_and_unload` of peft computes it. Anything of an adapter that would change the
result otherwise is refused by name.

Source: peft 0.21, `tuners/lora/layer.py` (`get_delta_weight`, `update_layer`) and `tuners/lora/config.py`;
Kalajdzievski 2023, arXiv 2312.03732, for the rank-stabilised scale.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from helium_edge.checkpoint.files import find_file, read_object
from helium_edge.checkpoint.header import TensorInfo, read_header
from helium_edge.checkpoint.tensor_file import read_tensor
from helium_edge.checkpoint.weight_map import DTYPES, EMBEDDING, HEAD, PREFIX, first_few
from helium_edge.config import ModelConfig
from helium_edge.documents import shorten
from helium_edge.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"

_MAX_CONFIG_BYTES = 1 << 20
_OUTER = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(embedding_)?([AB])(?:\.default)?(?:\.weight)?")
_PLAIN = re.compile(r"[\w.-]+")

# What says where an adapter comes from, how it was trained, or which modules it is of, as its tensors say too.
_NEUTRAL = frozenset({
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision",
    "inference_mode", "r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "modules_to_save",
    "use_rslora", "rank_pattern", "alpha_pattern", "layers_to_transform", "layers_pattern", "megatron_core",
    "qalora_group_size", "fan_in_fan_out", "eva_config", "ensure_weight_tying", "bias", "init_lora_weights",
    "runtime_config",
})  # fmt: skip

# Ways to begin training that leave the base as it is; PiSSA, OLoRA, CorDA and LoftQ change it when it is loaded.
_HARMLESS_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")


@dataclass(frozen=True)
class Factors:
    """The two factors of one weight.

    Attributes:
        a: (r, K) of a linear layer, (r, V) of the embedding.
        b: (N, r), or (C, r).
        scale: s.
        embedding: Whether the delta is the transpose of B A.
    """

    a: TensorInfo
    b: TensorInfo
    scale: float
    embedding: bool


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter that fits its base.

    Attributes:
        folder: Where its files are.
        factors: Of each weight that it changes, by the weight's name.
        replaced: Weights that it brings whole (`modules_to_save`, and embeddings that peft saves with it), by
            their names in the model; factors are added to these.
        source: What its config.json calls its base; empty where it names none.
    """

    folder: Path
    factors: Mapping[str, Factors]
    replaced: Mapping[str, TensorInfo]
    source: str

    def read(self, info: TensorInfo) -> torch.Tensor:
        """One tensor of the adapter's file, float32."""
        return read_tensor(self.folder / info.file, info).to(torch.float32)

    def merge(self, name: str, base: torch.Tensor) -> torch.Tensor:
        """A weight with the adapter in it.

        Args:
            name: The weight.
            base: (N, K), as the base stores it.

        Returns:
            (N, K) float32; `base` itself where the adapter leaves it alone.
        """
        if name in self.replaced:
            base = self.read(self.replaced[name])
        factors = self.factors.get(name)
        if factors is None:
            return base
        delta = self.read(factors.b) @ self.read(factors.a)
        if factors.embedding:
            delta = delta.T
        return base.to(torch.float32) + delta * factors.scale

    def infos(self, tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
        """What a checkpoint's tensors are once they are merged: float32 where the adapter has a part in them."""
        changed = self.factors.keys() | self.replaced.keys()
        return {
            name: replace(info, dtype="F32", nbytes=4 * math.prod(info.shape)) if name in changed else info
            for name, info in tensors.items()
        }


def is_adapter(folder: Path, *, alone: bool) -> bool:
    """Whether a folder holds an adapter.

    Args:
        folder: The folder.
        alone: Whether it holds no model; then the weights of one tell it too, beside a model only its config does,
            by which transformers goes.

    Raises:
        CheckpointError: A file of one is there, and no regular file.
    """
    names = (ADAPTER_CONFIG, ADAPTER_WEIGHTS) if alone else (ADAPTER_CONFIG,)
    return any(find_file(folder, name) is not None for name in names)


def refuse_adapter_alone(folder: Path) -> CheckpointError:
    """What to say of a folder that holds an adapter and no model."""
    base = _base_name(folder)
    return CheckpointError(
        f"{folder}: is an adapter{f' of {base}' if base else ''}, not a model",
        hint="merge it first: PeftModel.from_pretrained(BASE, FOLDER).merge_and_unload().save_pretrained(NEW) in "
        "peft; or put its base model into the same folder and add --merge-adapter",
    )


def refuse_adapter_beside(folder: Path) -> CheckpointError:
    """What to say of a folder that holds a model and an adapter, when nobody said to merge them."""
    return CheckpointError(
        f"{folder / ADAPTER_CONFIG}: an adapter lies beside the weights; transformers loads the model with it",
        hint="--merge-adapter exports the model with it; move the file away to export the model without",
    )


def read_adapter(folder: Path, config: ModelConfig, tensors: Mapping[str, TensorInfo]) -> Adapter:
    """Read the adapter of a folder and check that it fits the model there; no tensor data is read.

    Args:
        folder: Holds `adapter_config.json` and `adapter_model.safetensors`.
        config: The model.
        tensors: Of the base, by their names in the model.

    Raises:
        CheckpointError: It is malformed, of a kind that is not merged here, or of another model.
    """
    settings = _read_settings(folder)
    path = find_file(folder, ADAPTER_WEIGHTS)
    if path is None:
        raise CheckpointError(
            f"{folder / ADAPTER_WEIGHTS}: no such file",
            hint="pickle files (adapter_model.bin) are never opened; save the adapter again with a newer peft",
        )
    parts: dict[str, dict[str, TensorInfo]] = {}
    replaced: dict[str, TensorInfo] = {}
    for name, info in read_header(path).items():
        if info.dtype not in DTYPES:
            raise CheckpointError(f"{path.name}: {shorten(name)} is {info.dtype}; allowed: {', '.join(DTYPES)}")
        inner = _inner_name(name, tensors)
        match = _FACTOR.fullmatch(inner)
        if match is None:
            replaced[inner.replace("modules_to_save.default.", "").replace(".base_layer.", ".")] = info
        else:
            parts.setdefault(f"{match[1]}.weight", {})[f"{match[2] or ''}{match[3]}"] = info
    _check_known(path.name, [*parts, *replaced], tensors)
    _check_tied(path.name, config, [*parts, *replaced])
    for name, info in replaced.items():
        if info.shape != tensors[name].shape:
            raise _misfit(path.name, info, tensors[name].shape)
    factors = {name: _factors(settings, name, found, tensors[name], path.name) for name, found in parts.items()}
    if not factors and not replaced:
        raise CheckpointError(f"{path.name}: holds no tensor")
    return Adapter(folder, factors, replaced, _base_name(folder))


def _read_settings(folder: Path) -> dict[str, Any]:
    """Settings of an adapter that can be merged exactly."""
    settings = _read_config(folder)
    where = ADAPTER_CONFIG

    def refuse(field: str, allowed: str) -> CheckpointError:
        found = shorten(repr(settings.get(field)))
        return CheckpointError(
            f"{where}: {field} = {found} cannot be merged here; allowed: {allowed}",
            hint="merge_and_unload() in peft merges it",
        )

    if settings.get("peft_type") != "LORA":
        raise refuse("peft_type", "'LORA'")
    for field in settings:
        if field not in _NEUTRAL and settings[field]:
            raise refuse(shorten(field), "absent or empty")
    if settings.get("bias", "none") != "none":
        raise refuse("bias", "'none'")
    start = settings.get("init_lora_weights", True)
    if isinstance(start, (dict, list)) or start not in _HARMLESS_STARTS:
        raise refuse("init_lora_weights", "true, false, 'gaussian', 'orthogonal' or 'eva', which keep the base")
    if not _is_rank(settings.get("r", 8)):
        raise refuse("r", "a whole number above 0")
    if not _is_number(settings.get("lora_alpha", 8)):
        raise refuse("lora_alpha", "a finite number")
    for field, good in (("rank_pattern", _is_rank), ("alpha_pattern", _is_number)):
        pattern = settings.get(field) or {}
        if not isinstance(pattern, dict) or not all(good(value) for value in pattern.values()):
            raise refuse(field, "numbers by names of modules")
        expression = next((key for key in pattern if not _PLAIN.fullmatch(key.removeprefix("^"))), None)
        if expression is not None:
            raise CheckpointError(
                f"{where}: {field} has {shorten(repr(expression))}, a regular expression, which is never run; "
                "allowed: names of modules",
                hint="merge_and_unload() in peft merges it",
            )
    return settings


def _factors(
    settings: Mapping[str, Any], name: str, found: Mapping[str, TensorInfo], base: TensorInfo, file: str
) -> Factors:
    kind = "embedding_" if "embedding_A" in found or "embedding_B" in found else ""
    if set(found) != {f"{kind}A", f"{kind}B"}:
        raise CheckpointError(f"{file}: {shorten(name)} has only one of the two factors A and B")
    a, b = found[f"{kind}A"], found[f"{kind}B"]
    module = name.removesuffix(".weight")
    rank = _by_pattern(settings.get("rank_pattern"), module, settings.get("r", 8))
    alpha = _by_pattern(settings.get("alpha_pattern"), module, settings.get("lora_alpha", 8))
    rows, columns = base.shape[::-1] if kind else base.shape
    for info, shape in ((a, (rank, columns)), (b, (rows, rank))):
        if info.shape != shape:
            raise _misfit(file, info, shape)
    scale = alpha / math.sqrt(rank) if settings.get("use_rslora") else alpha / rank
    return Factors(a, b, scale, bool(kind))


def _by_pattern(pattern: Any, module: str, default: Any) -> Any:
    """The value of the first key that is the end of a module's name, as peft looks it up."""
    for key, value in (pattern or {}).items():
        whole, plain = key.startswith("^"), key.removeprefix("^")
        names = {module, module.removeprefix(PREFIX)}
        if any(name == plain or (not whole and name.endswith(f".{plain}")) for name in names):
            return value
    return default


def _inner_name(name: str, tensors: Mapping[str, TensorInfo]) -> str:
    """The name of an adapter's tensor without what peft puts in front, with the `model.` of the classes."""
    inner = name.removeprefix(_OUTER)
    outside = inner.startswith((PREFIX, "lm_head.", "score."))
    return inner if outside or not any(known.startswith(PREFIX) for known in tensors) else PREFIX + inner


def _check_known(file: str, names: list[str], tensors: Mapping[str, TensorInfo]) -> None:
    unknown = [shorten(name) for name in names if name not in tensors]
    if unknown:
        raise CheckpointError(
            f"{file}: is of another model: the weights here have no {first_few(unknown)}",
            hint="an adapter is merged into the base model that it was trained on, and into no other",
        )


def _check_tied(file: str, config: ModelConfig, names: list[str]) -> None:
    """Refuse an adapter of one of two tied weights: merged, the two are no longer one."""
    shared = [name for name in names if name in (EMBEDDING, HEAD)]
    if shared and config.tie_word_embeddings and config.task.has_cache:
        raise CheckpointError(
            f"{file}: changes {shared[0]}, which config.json ties to the other end of the model",
            hint="merge it in peft and save the model with tie_word_embeddings = false",
        )


def _misfit(file: str, info: TensorInfo, shape: tuple[int, ...]) -> CheckpointError:
    return CheckpointError(
        f"{file}: {shorten(info.name)} is {list(info.shape)}, expected {list(shape)}",
        hint="r, rank_pattern and the base model must be those of the training",
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = find_file(folder, ADAPTER_CONFIG)
    if path is None:
        raise CheckpointError(f"{folder / ADAPTER_CONFIG}: no such file", hint="peft saves it beside the adapter")
    return read_object(path, _MAX_CONFIG_BYTES)


def _base_name(folder: Path) -> str:
    """What an adapter calls its base, fit for a message; empty where it says nothing readable."""
    try:
        name = _read_config(folder).get("base_model_name_or_path")
    except CheckpointError:
        return ""
    return shorten(name) if isinstance(name, str) else ""


def _is_rank(value: Any) -> bool:
    return type(value) is int and 1 <= value < 1 << 20


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
