"""The tokenizer that transformers 5 builds where `tokenizer_class` is `LlamaTokenizer`.

It takes entries, merges and post-processor of `tokenizer.json`, and nothing else: normalizer, pre-tokenizer and
decoder are those of the class. Around added tokens the ids are then others than those of the file.

Source: transformers 5.24 `models/llama/tokenization_llama.py` and `models/auto/tokenization_auto.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")

DEFAULTS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
"""Special tokens of the class where no file names others."""

_BLANK = "\u2581"


def is_rebuilt(settings: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> bool:
    """Whether transformers would build the tokenizer of a folder anew.

    Args:
        settings: The parsed `tokenizer_config.json`.
        tokenizer: The parsed `tokenizer.json`; a byte-level one is taken as it is, and the class has no Unigram.
    """
    model = tokenizer.get("model")
    if settings.get("tokenizer_class") not in CLASSES or not isinstance(model, dict):
        return False
    return model.get("type") == "BPE" and not any(_is_byte_level(tokenizer.get(part)) for part in _PARTS)


_PARTS = ("pre_tokenizer", "decoder")


def rebuild(settings: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """The `tokenizer.json` of the tokenizer that transformers builds, without added tokens."""
    prefix = settings.get("add_prefix_space")
    prefix = True if prefix is None else bool(prefix)
    scheme = ("always" if settings.get("legacy") else "first") if prefix else "never"
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _BLANK}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    flags = {"fuse_unk": True, "byte_fallback": True, "dropout": None, "unk_token": None, "ignore_merges": False}
    return {
        **tokenizer,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": _BLANK, "prepend_scheme": scheme, "split": False},
        "decoder": {"type": "Sequence", "decoders": steps},
        "model": {**tokenizer["model"], **flags},
    }


def _is_byte_level(part: Any) -> bool:
    """Whether a step, or one of its steps, is of the byte-level kind."""
    if not isinstance(part, dict):
        return False
    steps = part.get("pretokenizers") or part.get("decoders") or []
    return part.get("type") == "ByteLevel" or any(_is_byte_level(step) for step in steps if isinstance(step, dict))
