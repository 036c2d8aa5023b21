"""What a `tokenizer.json` may ask of the library that runs it.

The library does what the file says, and a file can say: replace every letter by a thousand, five times over, or
match with a regular expression that never ends. Tokenizers of the SentencePiece kind, which every Helium has, need
neither; so both are refused before the library sees the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helium_edge.documents import DocumentError, parse_json, read_document
from helium_edge.errors import InputError

MAX_TOKENIZER_BYTES = 1 << 24
"""Helium's tokenizer.json has 3 MB."""

MAX_TOKENIZER_ITEMS = 600_000
"""Helium's has 150,000, three for each token."""

MAX_STEPS = 64
"""Of the normalizer, pre-tokenizer, post-processor and decoder together."""

MAX_GROWTH = 64
"""Characters that all replacements together may make of one."""

MAX_INSERTED = 64
"""Characters or ids that one step may add to a text."""


def read_tokenizer_file(path: Path) -> dict[str, Any]:
    """Read a `tokenizer.json` and check it against the rules.

    Raises:
        InputError: It is missing, unreadable, too large, no JSON object, or breaks a rule.
    """
    try:
        data = parse_json(read_document(path, MAX_TOKENIZER_BYTES), max_items=MAX_TOKENIZER_ITEMS)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file", hint="a checkpoint and a bundle both hold a tokenizer.json"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: not readable: {error.strerror}") from error
    except DocumentError as error:
        raise InputError(f"{path}: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a usable tokenizer.json: its top level is no object")
    problem = next(_broken_rules(data), None)
    if problem is not None:
        raise InputError(f"{path}: {problem}")
    return data


def _broken_rules(data: dict[str, Any]) -> Iterator[str]:
    steps = [step for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder") for step in
             _steps(part, data.get(part))]  # fmt: skip
    if len(steps) > MAX_STEPS:
        yield f"has more than {MAX_STEPS} steps"
    growth = 1.0
    for place, step in steps:
        pattern = step.get("pattern")
        if isinstance(pattern, dict) and "Regex" in pattern:
            yield f"{place} matches a regular expression, which can take forever; allowed: a String pattern"
        if step.get("type") == "Replace":
            growth *= _growth(pattern, step.get("content"))
        inserted = max(_inserted(step), default=0)
        if inserted > MAX_INSERTED:
            yield f"{place} adds {inserted} characters or tokens to every text; the limit is {MAX_INSERTED}"
    if growth > MAX_GROWTH:
        yield f"its replacements make a text {growth:.3g} times as long; the limit is {MAX_GROWTH}"


def _steps(place: str, root: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object below a part of the file that has a type, with the part's name; not recursive."""
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if "type" in node:
                yield place, node
            pending.extend(value for value in node.values() if isinstance(value, (dict, list)))
        elif isinstance(node, list):
            pending.extend(value for value in node if isinstance(value, (dict, list)))


def _growth(pattern: Any, content: Any) -> float:
    old = pattern.get("String") if isinstance(pattern, dict) else None
    if not isinstance(old, str) or not isinstance(content, str):
        return 1.0  # malformed: the library says so
    # An empty pattern matches between any two characters.
    return max(1.0, len(content) / len(old)) if old else math.inf


def _inserted(step: dict[str, Any]) -> Iterator[int]:
    for key in ("prepend", "replacement"):
        if isinstance(step.get(key), str):
            yield len(step[key])
    if step.get("type") == "TemplateProcessing":
        single, tokens = step.get("single"), step.get("special_tokens")
        pieces = len(single) if isinstance(single, (list, str)) else 0
        ids = (
            [len(token["ids"]) for token in tokens.values() if _has_ids(token)] if isinstance(tokens, dict) else []
        )
        yield pieces * max(ids, default=1)


def _has_ids(token: Any) -> bool:
    return isinstance(token, dict) and isinstance(token.get("ids"), list)
