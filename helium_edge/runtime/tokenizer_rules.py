"""What a `tokenizer.json` may ask of the library that runs it.

The library does what the file says, and a file can say: replace every letter by a thousand, five times over, or
match with a regular expression that never ends. The first is refused before the library sees the file. Expressions
are what tokenizers of the byte-level kind cut texts with: those of a normalizer or pre-tokenizer are run, for a
limited time (see `tokenizer`), and any other is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from helium_edge.documents import DocumentError, parse_json, read_document
from helium_edge.errors import InputError

MAX_TOKENIZER_BYTES = 1 << 26
"""Helium's tokenizer.json has 3 MB, one of 256,000 entries with their merges 34 MB."""

MAX_TOKENIZER_ITEMS = 2_500_000
"""Helium's has 150,000, three for each token; one of 256,000 entries and 580,000 merges has 2.1 million."""

MAX_EXPRESSION = 2000
"""Characters of a regular expression; that of Llama 3 has 150."""

MAX_REPEATS = 10_000
"""Product of the counts of all counted repeats of an expression, which the library may unroll."""

MAX_STEPS = 64
"""Of the normalizer, pre-tokenizer, post-processor and decoder together."""

MAX_GROWTH = 64
"""Characters that all replacements together may make of one."""

MAX_INSERTED = 64
"""Characters or ids that one step may add to a text."""


def read_tokenizer_file(path: Path, content: bytes | None = None) -> dict[str, Any]:
    """Read a `tokenizer.json` and check it against the rules.

    Args:
        path: The file.
        content: What to read in its place.

    Raises:
        InputError: It is missing, unreadable, too large, no JSON object, or breaks a rule.
    """
    try:
        text = read_document(path, MAX_TOKENIZER_BYTES) if content is None else content
        data = parse_json(text, max_items=MAX_TOKENIZER_ITEMS)
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file", hint="a checkpoint and a bundle both hold a tokenizer.json"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: not readable: {error.strerror}") from error
    except DocumentError as error:
        raise InputError(f"{path}: {error}", hint=error.hint) from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: not a usable tokenizer.json: its top level is no object")
    problem = next(_broken_rules(data), None)
    if problem is not None:
        raise InputError(f"{path}: {problem}")
    return data


def has_expressions(data: dict[str, Any]) -> bool:
    """Whether texts are matched with regular expressions of the file's own."""
    parts = ("normalizer", "pre_tokenizer")
    return any("Regex" in step["pattern"] for part in parts for _, step in _steps(part, data.get(part)) if
               isinstance(step.get("pattern"), dict))  # fmt: skip


def _broken_rules(data: dict[str, Any]) -> Iterator[str]:
    steps = [step for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder") for step in
             _steps(part, data.get(part))]  # fmt: skip
    if len(steps) > MAX_STEPS:
        yield f"has more than {MAX_STEPS} steps"
    growth = 1.0
    for place, step in steps:
        pattern = step.get("pattern")
        if isinstance(pattern, dict) and "Regex" in pattern:
            yield from _broken_expression(place, pattern["Regex"])
        if step.get("type") == "Replace":
            growth *= _growth(pattern, step.get("content"))
        inserted = max(_inserted(step), default=0)
        if inserted > MAX_INSERTED:
            yield f"{place} adds {inserted} characters or tokens to every text; the limit is {MAX_INSERTED}"
    if growth > MAX_GROWTH:
        yield f"its replacements make a text {growth:.3g} times as long; the limit is {MAX_GROWTH}"


def _broken_expression(place: str, expression: Any) -> Iterator[str]:
    if place not in ("normalizer", "pre_tokenizer"):
        yield f"{place} matches a regular expression, which can take forever; allowed: a String pattern"
    if not isinstance(expression, str) or len(expression) > MAX_EXPRESSION:
        yield f"{place} has a regular expression of more than {MAX_EXPRESSION} characters, or that is no text"
        return
    repeats = 1.0
    for low, high in re.findall(r"\{(\d{0,9})(?:,(\d{0,9}))?\}", expression):
        repeats *= max(1, int(high or 0), int(low or 0))
    if repeats > MAX_REPEATS:
        yield f"{place} has a regular expression that repeats {repeats:.3g} times; the limit is {MAX_REPEATS}"


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
    if isinstance(pattern, dict) and "Regex" in pattern and isinstance(content, str):
        # It may match one character, or the place between two.
        return max(2.0, len(content) + 1) if len(content) > 1 else 2.0
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
