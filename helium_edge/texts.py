"""The texts that ship with the package, cut into windows of tokens.

Six evaluation texts of about 300 words, written for this project, on sensors, phones and computing at the edge;
and six shorter ones on other things, to calibrate on what parity does not look at.
"""

from __future__ import annotations

import importlib.resources
import itertools
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from helium_edge.documents import DocumentError, parse_json, read_document, shorten
from helium_edge.errors import UsageError, did_you_mean

LANGUAGES = ("en", "fr", "de", "it", "pt", "es")
"""The languages of Helium 1 preview and of helium-tiny, in the order in which they are evaluated and shown."""

DEFAULT_WINDOW_LEN = 256
MIN_WINDOW_LEN = 16
"""A shorter window holds hardly more than the prompt; a shorter rest at the end of a text is left out."""


class TextEncoder(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text as the model wants them, BOS in front."""
        ...


MAX_TEXT_BYTES = 64 << 20
"""Largest file of one's own text."""


@dataclass(frozen=True)
class Window:
    """Tokens of one conversation: consecutive text of one language, BOS first where the tokenizer adds it."""

    language: str
    tokens: tuple[int, ...]


def evaluation_text(language: str) -> str:
    """The built-in text of a language.

    Raises:
        UsageError: No text in that language.
    """
    if language not in LANGUAGES:
        raise UsageError(f"no evaluation text in {language!r}", hint=did_you_mean(language, LANGUAGES))
    return _built_in("eval-text", language)


def _built_in(folder: str, language: str) -> str:
    resource = importlib.resources.files("helium_edge.data").joinpath(folder, f"{language}.txt")
    return resource.read_text(encoding="utf-8")


def evaluation_windows(
    tokenizer: TextEncoder,
    *,
    window_len: int = DEFAULT_WINDOW_LEN,
    max_windows_per_language: int | None = None,
    languages: Sequence[str] = LANGUAGES,
) -> list[Window]:
    """Cut the built-in texts into windows of whole words, language by language.

    Every window is encoded on its own, so it begins as a prompt of the model begins.

    Args:
        tokenizer: Turns text into ids, with the BOS of the model.
        window_len: Most tokens of a window.
        max_windows_per_language: How many to take from the start of each text; None takes all of it.
        languages: Which of `LANGUAGES`.

    Raises:
        UsageError: No such language, or a limit too small to hold anything.
    """
    if window_len < MIN_WINDOW_LEN:
        raise UsageError(f"windows of {window_len} tokens are too short; at least {MIN_WINDOW_LEN}")
    if max_windows_per_language is not None and max_windows_per_language < 1:
        raise UsageError(f"{max_windows_per_language} windows per language compare nothing; at least 1")
    windows: list[Window] = []
    for language in languages:
        pieces = _cut(tokenizer, evaluation_text(language), window_len)
        windows += [Window(language, piece) for piece in itertools.islice(pieces, max_windows_per_language)]
    return windows


def calibration_windows(tokenizer: TextEncoder, *, window_len: int, tokens: int) -> list[Window]:
    """Cut the built-in calibration texts into windows, language by language.

    Args:
        tokenizer: Turns text into ids, with the BOS of the model.
        window_len: Most tokens of a window.
        tokens: About how many tokens to take at most, equally from each language.
    """
    most = max(1, tokens // (window_len * len(LANGUAGES)))
    windows: list[Window] = []
    for language in LANGUAGES:
        pieces = _cut(tokenizer, _built_in("calibration-text", language), window_len)
        windows += [Window(language, piece) for piece in itertools.islice(pieces, most)]
    return windows


def read_windows(path: Path, tokenizer: TextEncoder, *, window_len: int, tokens: int = 0) -> list[Window]:
    """Cut a text of one's own into windows.

    Args:
        path: UTF-8 text; a file `*.jsonl` has an object a line with `text`, and `language` where it is known.
        tokenizer: Turns text into ids, with the BOS of the model.
        window_len: Most tokens of a window.
        tokens: About how many tokens to take over all languages, equally from each; 0 takes all.

    Raises:
        UsageError: The file cannot be read, is no such text, or holds nothing to compare on.
    """
    texts: dict[str, list[str]] = {}
    for language, text in _read_texts(path):
        texts.setdefault(language, []).append(text)
    most = math.ceil(tokens / (window_len * max(1, len(texts)))) if tokens else None
    windows: list[Window] = []
    for language, parts in texts.items():
        pieces = itertools.chain.from_iterable(_cut(tokenizer, part, window_len) for part in parts)
        usable = (piece for piece in pieces if len(piece) >= MIN_WINDOW_LEN)
        windows += [Window(language, piece) for piece in itertools.islice(usable, most)]
    if not windows:
        raise UsageError(f"{path}: no passage of at least {MIN_WINDOW_LEN} tokens to compare on")
    return windows


@dataclass(frozen=True)
class TextSource:
    """Which text to compare on.

    Attributes:
        file: Plain text, or `.jsonl` with `text` and `language`; None is the built-in text.
        tokens: About how many tokens to run over all languages; 0 runs all of it.
    """

    file: Path | None = None
    tokens: int = 0

    def windows(self, tokenizer: TextEncoder, length: int) -> list[Window]:
        """The text cut into conversations of at most `length` tokens."""
        if self.file is not None:
            return read_windows(self.file, tokenizer, window_len=length, tokens=self.tokens)
        per_language = math.ceil(self.tokens / (length * len(LANGUAGES))) if self.tokens else None
        return evaluation_windows(tokenizer, window_len=length, max_windows_per_language=per_language)


BUILT_IN_TEXT = TextSource()


def _read_texts(path: Path) -> Iterator[tuple[str, str]]:
    """Pairs of language and text."""
    try:
        content = read_document(path, MAX_TEXT_BYTES).decode("utf-8-sig")
    except DocumentError as error:
        raise UsageError(f"{path}: {error}", hint=error.hint) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UsageError(f"{path}: the text cannot be read: {reason}") from error
    if path.suffix != ".jsonl":
        yield "text", content
        return
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = parse_json(line.encode("utf-8"), max_items=MAX_TEXT_BYTES)
        except DocumentError as error:
            raise UsageError(f"{path}: line {number}: {error}") from error
        text = entry.get("text") if isinstance(entry, dict) else None
        language = entry.get("language", "text") if isinstance(entry, dict) else None
        if not isinstance(text, str) or not isinstance(language, str):
            raise UsageError(
                f"{path}: line {number} is no object with a string `text`",
                hint='each line looks like {"language": "fr", "text": "..."}',
            )
        yield language, text


def _cut(tokenizer: TextEncoder, text: str, window_len: int) -> Iterator[tuple[int, ...]]:
    """Encode as many whole words at a time as fit, and go on after them."""
    words = [match.span() for match in re.finditer(r"\S+", text)]
    begin = 0
    while begin < len(words):
        # The longest run of words that fits lies between `fits` and `fails`; no word is less than one token.
        fits, fails = begin, min(begin + window_len, len(words)) + 1
        ids: list[int] = []
        while fails - fits > 1:
            middle = (fits + fails) // 2
            found = tokenizer.encode(text[words[begin][0] : words[middle - 1][1]])
            if len(found) <= window_len:
                fits, ids = middle, found
            else:
                fails = middle
        if fits == begin:
            word = text[slice(*words[begin])]
            raise UsageError(f"the word {shorten(word)!r} does not fit a window of {window_len} tokens")
        if begin == 0 or fits < len(words) or len(ids) >= MIN_WINDOW_LEN:
            yield tuple(ids)
        begin = fits
