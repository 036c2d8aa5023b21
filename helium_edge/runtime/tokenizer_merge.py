"""One `tokenizer.json` from all files of a checkpoint that name tokens, with the ids that `AutoTokenizer` gives.

A fine-tune often adds tokens that stand only in `tokenizer_config.json` or `added_tokens.json`. transformers
adds them to the tokenizer when it loads the folder; a host that reads `tokenizer.json` alone would cut them into
pieces. The same is done here once, by the same library, and written down.

Source: transformers 5.24 `tokenization_utils_base.py` (`_from_pretrained`) and `tokenization_utils_tokenizers.py`
(`TokenizersBackend.__init__`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from helium_edge.errors import InputError
from helium_edge.runtime.quiet import quiet
from helium_edge.runtime.token_files import TOKENIZER, DeclaredTokens, read_declared
from helium_edge.runtime.tokenizer import library_errors
from helium_edge.runtime.tokenizer_rules import read_tokenizer_file

_SHOWN = 6

_REBUILT = (
    f"{TOKENIZER}: the bundle's is the one that transformers 5 builds for tokenizer_class = LlamaTokenizer, of "
    "the same entries; transformers 4 takes the file as it is"
)


@dataclass(frozen=True)
class MergedTokenizer:
    """The tokenizer of a checkpoint, in one file.

    Attributes:
        content: The bytes of `tokenizer.json`: those of the checkpoint where nothing is to be merged.
        merged_from: sha256 of each file that went into it, by name; empty where nothing was merged.
        added: Added tokens by id, effective ones.
        named: Text of the named special tokens: `eos_token` and the like.
        notes: What was merged, a line; it loses nothing.
        warnings: Where files disagree, a line each.
    """

    content: bytes
    merged_from: Mapping[str, str]
    added: Mapping[int, str]
    named: Mapping[str, str]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def merge_tokenizer(files: Mapping[str, Path]) -> MergedTokenizer:
    """Merge what the files of a checkpoint say of tokens.

    Args:
        files: Those of `TOKENIZER_FILES` that there are, by name; `tokenizer.json` is among them.

    Raises:
        InputError: A file is malformed, or the library takes none of it.
    """
    path = files[TOKENIZER]
    data = read_tokenizer_file(path)
    original = path.read_bytes()
    with library_errors(path), quiet():
        # First: what reads `data` below takes for granted that it has the form that the library knows.
        inner = tokenizers.Tokenizer.from_str(original.decode("utf-8"))
    declared = read_declared(files, data)
    with library_errors(path), quiet():
        if declared.rebuilt is not None:
            inner = tokenizers.Tokenizer.from_str(_spelled(declared.rebuilt).decode("utf-8"))
        before = inner.get_added_tokens_decoder()
        new = _missing(declared, before)
        if new:
            inner.add_tokens(new)
        after = inner.get_added_tokens_decoder()
        ids = {str(token.content): index for index, token in after.items()}
    added = {index: str(token.content) for index, token in sorted(after.items())}
    warnings = (*declared.warnings, *_moved(declared, ids))
    listed = [_entry(index, token) for index, token in sorted(after.items())]
    if declared.rebuilt is None and not _differs(data.get("added_tokens"), listed):
        return MergedTokenizer(original, {}, added, declared.named, warnings=warnings)
    content = _spelled((declared.rebuilt or data) | {"added_tokens": listed})
    _check(path, content, after)
    names = [TOKENIZER, *(name for name in files if name in declared.sources)]
    merged_from = {name: hashlib.sha256(files[name].read_bytes()).hexdigest() for name in names}
    changed = [index for index, token in sorted(after.items()) if repr(token) != repr(before.get(index))]
    if declared.rebuilt is not None:
        notes: tuple[str, ...] = (_REBUILT,)
    else:
        notes = (_note(changed, added, names[1:]),) if changed else ()
    return MergedTokenizer(content, merged_from, added, declared.named, notes, warnings)


def _spelled(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, ensure_ascii=False, indent=2) + "\n").encode("utf-8")


def _missing(declared: DeclaredTokens, present: Mapping[int, Any]) -> list[Any]:
    """Tokens to add, in the order in which transformers adds them: it decides about their ids."""
    known = {repr(token) for token in present.values()}
    new = [token for _, token in sorted(declared.by_id.items()) if repr(token) not in known]
    texts = {str(token.content) for token in (*present.values(), *new)}
    for token in (*declared.special, *declared.extra):
        if str(token) not in texts and token not in new:  # a text is no token, so that it is added once more
            new.append(token)
    new = [AddedToken(token, special=True) if isinstance(token, str) else token for token in new]
    names = set(declared.named.values())
    for token in new:
        if str(token.content) in names:
            token.special = True
    return new


def _moved(declared: DeclaredTokens, ids: Mapping[str, int]) -> list[str]:
    """Tokens whose id in a file is not the one that the library gives them."""
    wrong = [
        f"{str(token.content)!r} is {ids[str(token.content)]}, not {index}"
        for index, token in sorted(declared.by_id.items())
        if ids.get(str(token.content), index) != index
    ]
    if not wrong:
        return []
    more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    where = " and ".join(declared.sources) or TOKENIZER
    return [f"{where}: ids of added tokens are those that transformers gives: {', '.join(wrong[:_SHOWN])}{more}"]


def _entry(index: int, token: Any) -> dict[str, Any]:
    """An entry of `added_tokens`, as the library writes it."""
    return {
        "id": index,
        "content": str(token.content),
        "single_word": bool(token.single_word),
        "lstrip": bool(token.lstrip),
        "rstrip": bool(token.rstrip),
        "normalized": bool(token.normalized),
        "special": bool(token.special),
    }


def _differs(stored: Any, listed: list[dict[str, Any]]) -> bool:
    """Whether a file's list of added tokens is another than the library makes of it, its order aside."""
    if not isinstance(stored, list) or not all(isinstance(entry, dict) for entry in stored):
        return bool(listed)
    kept = [{key: entry.get(key) for key in _KEYS} for entry in stored]
    return sorted(kept, key=_by_id) != listed


_KEYS = ("id", "content", "single_word", "lstrip", "rstrip", "normalized", "special")


def _by_id(entry: Mapping[str, Any]) -> int:
    index = entry.get("id")
    return index if isinstance(index, int) else -1


def _check(path: Path, content: bytes, expected: Mapping[int, Any]) -> None:
    """Refuse to write a file that the library reads otherwise than it was meant."""
    with library_errors(path), quiet():
        found = tokenizers.Tokenizer.from_str(content.decode("utf-8")).get_added_tokens_decoder()
    if {index: repr(token) for index, token in found.items()} != {i: repr(token) for i, token in expected.items()}:
        raise InputError(
            f"{path.name}: its added tokens cannot be merged into one file without changing their ids",
            hint="AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) in transformers makes one of them",
        )


def _note(changed: list[int], added: Mapping[int, str], sources: list[str]) -> str:
    shown = ", ".join(f"{added[index]} ({index})" for index in changed[:_SHOWN])
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    where = f" of {' and '.join(sources)}" if sources else ""
    return f"{TOKENIZER}: the bundle's holds the added tokens{where} as transformers adds them: {shown}{more}"
