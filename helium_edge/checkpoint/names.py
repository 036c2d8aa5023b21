"""The names of tensors in a file made the names that this program uses, as far as transformers makes them so too.

A checkpoint may leave out `model.`, keep the head of a tied pair alone, carry tensors that its class has no place
for (a value head, a RoPE buffer, the head of the language model beside a classifier), or have been saved through a
wrapper that put its own name into every other. All of that is exact: what is left out plays no part in the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from helium_edge.checkpoint.header import TensorInfo
from helium_edge.checkpoint.weight_map import EMBEDDING, HEAD, PREFIX, SCORE, expected_modules
from helium_edge.config import ARCHITECTURES, ModelConfig
from helium_edge.documents import shorten
from helium_edge.errors import CheckpointError

# Left in front by torch.nn.parallel, TRL and peft; left anywhere by torch.compile and FSDP.
_WRAPPERS = ("module.", "pretrained_model.", "base_model.model.")
_MIDDLE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")

# Buffers that older transformers saved beside the weights; they follow from the config.
_BUFFER = re.compile(r"(?:.*\.)?rotary_emb\.(?:original_)?inv_freq")
_BODY = re.compile(r"(?:embed_tokens|layers|norm)\..+|rotary_emb\.(?:original_)?inv_freq")
_SHOWN = 6


@dataclass(frozen=True)
class NamedTensors:
    """Tensors under the names of the classes of transformers.

    Attributes:
        tensors: By that name; each entry still knows its name in the file.
        warnings: What was ignored or renamed, a line each.
    """

    tensors: Mapping[str, TensorInfo]
    warnings: tuple[str, ...] = ()


def unwrap(found: Mapping[str, TensorInfo]) -> NamedTensors:
    """Names without what a wrapper around the model put into them.

    Raises:
        CheckpointError: Two tensors then have one name.
    """
    tensors: dict[str, TensorInfo] = {}
    wrappers: dict[str, None] = {}
    for name, tensor in found.items():
        bare, seen = _bare(name)
        wrappers |= dict.fromkeys(seen)
        if bare in tensors:
            raise CheckpointError(
                f"{tensor.file}: {shorten(tensors[bare].name)} and {shorten(name)} are one tensor, saved twice"
            )
        tensors[bare] = tensor
    if not wrappers:
        return NamedTensors(found)
    file = next(iter(found.values())).file
    shown = ", ".join(map(repr, wrappers))
    return NamedTensors(tensors, (f"{file}: {shown} of a wrapper around the model was taken out of the names",))


def _bare(name: str) -> tuple[str, list[str]]:
    """A name without wrappers, and which ones it had."""
    seen = []
    while (wrapper := next((part for part in (*_WRAPPERS, *_MIDDLE) if name.startswith(part)), None)) is not None:
        name = name.removeprefix(wrapper)
        seen.append(wrapper)
    for part in _MIDDLE:
        if f".{part}" in name:
            name = name.replace(f".{part}", ".")
            seen.append(part)
    return name, seen


def guess_architecture(config: ModelConfig, names: Iterable[str]) -> str:
    """The class of a checkpoint whose config.json names none, from its tensors.

    Args:
        config: Read without knowing the class.
        names: Of all tensors, unwrapped.
    """
    present = set(names)
    language_model, bare, sequence, token = ARCHITECTURES[config.model_type]
    if SCORE in present and HEAD not in present:
        return token if "score.bias" in present else sequence
    has_body = any(name.startswith(PREFIX) for name in present)
    if HEAD in present or config.tie_word_embeddings or has_body or not present:
        return language_model
    return bare


def canonical(config: ModelConfig, found: Mapping[str, TensorInfo]) -> NamedTensors:
    """Tensors under the names that `config` promises; those that it has no place for are left out, and named.

    Args:
        config: The model.
        found: All tensors, unwrapped.
    """
    tensors = dict(_with_prefix(found))
    tied = config.tie_word_embeddings and config.task.has_cache
    if tied and EMBEDDING not in tensors and HEAD in tensors:  # the writer kept the other name of one storage
        tensors = {EMBEDDING: tensors.pop(HEAD), **tensors}
    modules = expected_modules(config)
    ignored = [
        tensor
        for name, tensor in tensors.items()
        if _BUFFER.fullmatch(name) or not (name.startswith(PREFIX) or name.rpartition(".")[0] in modules)
    ]
    if not ignored:
        return NamedTensors(tensors)
    if not any(name.startswith(PREFIX) for name in tensors):
        return NamedTensors(tensors)  # no tensor has a place: other names, which are told as such
    gone = {id(tensor) for tensor in ignored}
    kept = {name: tensor for name, tensor in tensors.items() if id(tensor) not in gone}
    return NamedTensors(kept, (_ignored(config, ignored),))


def _with_prefix(found: Mapping[str, TensorInfo]) -> Mapping[str, TensorInfo]:
    """Tensors of the decoder under `model.`: files of the bare model, and of some converters, leave it out."""
    if any(name.startswith(PREFIX) for name in found):
        return found
    return {PREFIX + name if _BODY.fullmatch(name) else name: tensor for name, tensor in found.items()}


def _ignored(config: ModelConfig, tensors: list[TensorInfo]) -> str:
    shown = ", ".join(shorten(tensor.name) for tensor in tensors[:_SHOWN])
    more = f" and {len(tensors) - _SHOWN} more" if len(tensors) > _SHOWN else ""
    what = "a tensor" if len(tensors) == 1 else f"{len(tensors)} tensors"
    return (
        f"{tensors[0].file}: {what} without a place in {config.architecture} ignored, as transformers does: "
        f"{shown}{more}"
    )
