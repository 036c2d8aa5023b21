"""Text to token ids and back, by the checkpoint's own `tokenizer.json`; and text out of a stream of ids.

Owns what streaming needs to know of a decoder; everything else is the `tokenizers` library. Decoders of the
SentencePiece kind are accepted, which every Helium has: each token stands for its own text, save that a run of
byte tokens (`<0xE2>`) is decoded as a whole and that the first blank of the text is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers

from helium_edge.documents import first_line
from helium_edge.errors import InputError, UsageError
from helium_edge.runtime.quiet import quiet
from helium_edge.runtime.tokenizer_rules import read_tokenizer_file

# Steps of a decoder after which the text of a token still does not depend on its neighbours, in this order.
# A Replace after Fuse would see the whole text, a byte-level decoder cuts characters between tokens.
_STREAMABLE = re.compile(r"((Replace|Metaspace|ByteFallback) )*(Fuse )?(Strip )*")

# A little more than the library takes for a byte: to wait for one token more than needed is harmless.
_BYTE_TOKEN = re.compile(r"<0x..>", re.DOTALL)


class Tokenizer:
    """The tokenizer of a checkpoint or bundle.

    Args:
        path: A `tokenizer.json`.

    Raises:
        InputError: The file is missing, malformed, or of a kind that cannot be streamed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        decoder = _read_decoder(path)
        # The library's Rust code prints a backtrace before it raises.
        with _library_errors(path), quiet():
            self._inner = tokenizers.Tokenizer.from_file(str(path))
            # Helium's file switches padding on; a prompt is one sequence and never cut.
            self._inner.no_padding()
            self._inner.no_truncation()
            # Some faults of a file, as a template with an unknown token, show only at work.
            self._inner.decode(self._inner.encode("a").ids)
            added = self._inner.get_added_tokens_decoder()
        self._skipped = frozenset(index for index, token in added.items() if token.special)
        self._has_byte_fallback = "ByteFallback" in decoder
        self._anchor = self._find_anchor()

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._inner.get_vocab_size(with_added_tokens=True))

    @property
    def largest_id(self) -> int:
        """The largest id of any token; ids may have gaps."""
        return max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with the special tokens of the file's own template (Helium: `<s>` in front).

        Raises:
            UsageError: The text is no valid Unicode.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"the text is not valid Unicode at character {error.start}") from error
        with _library_errors(self._path):
            return list(self._inner.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens and ids without a token have none.

        Raises:
            UsageError: A negative id, or one that no tokenizer can hold.
        """
        _check_ids(ids)
        with _library_errors(self._path):
            return str(self._inner.decode(list(ids), skip_special_tokens=True))

    def stream(self, *, continuing: bool = False) -> StreamDecoder:
        """A decoder for ids that come one by one.

        Args:
            continuing: Whether text stands before the first id, as a prompt does; its leading blank is then kept.
        """
        return StreamDecoder(self, continuing=continuing)

    def is_silent(self, token_id: int) -> bool:
        """Whether a token has no text and leaves a run of byte tokens around it whole."""
        return token_id in self._skipped or self._inner.id_to_token(token_id) is None

    def is_byte(self, token_id: int) -> bool:
        """Whether a token may stand for a part of a character."""
        token = self._inner.id_to_token(token_id) or ""
        return self._has_byte_fallback and _BYTE_TOKEN.fullmatch(token) is not None

    def decode_after_text(self, ids: Sequence[int]) -> str:
        """Text of ids as it reads after some other text, so that a leading blank counts."""
        return self.decode([self._anchor, *ids])[len(self.decode([self._anchor])) :]

    def _find_anchor(self) -> int:
        """A token with text of its own, to stand for the text before."""
        for token_id in range(self.vocab_size):
            if not self.is_silent(token_id) and not self.is_byte(token_id) and self.decode([token_id]):
                return token_id
        raise InputError(f"{self._path}: no token of the vocabulary has any text")


class StreamDecoder:
    """Turns ids that come one by one into text; what all calls return, joined, is the text of all ids.

    Text is held back while it may still change, which is during a run of byte tokens: whether they are
    characters is known at the end of the run. What has been returned is not decoded again, so the cost is linear
    in the number of ids.
    """

    def __init__(self, tokenizer: Tokenizer, *, continuing: bool = False) -> None:
        self._tokenizer = tokenizer
        self._pending: list[int] = []
        self._has_text = continuing

    def push(self, token_id: int) -> str:
        """Add one id and return the text that is now complete, often none.

        Raises:
            UsageError: A negative id, or one that no tokenizer can hold.
        """
        _check_ids([token_id])
        if self._tokenizer.is_silent(token_id):
            return ""
        self._pending.append(token_id)
        return "" if self._tokenizer.is_byte(token_id) else self._flush()

    def finish(self) -> str:
        """Return the rest; a character that is still incomplete reads U+FFFD, as in the text of all ids."""
        return self._flush()

    def _flush(self) -> str:
        if self._has_text:
            text = self._tokenizer.decode_after_text(self._pending)
        else:
            text = self._tokenizer.decode(self._pending)
            if not text:
                # What is dropped at the start may not be settled yet: these ids have to be seen again.
                return ""
            self._has_text = True
        self._pending.clear()
        return text


def _read_decoder(path: Path) -> list[str]:
    """Step types of the decoder in the file.

    Raises:
        InputError: The file is unreadable, or its decoder cannot be streamed.
    """
    decoder = read_tokenizer_file(path).get("decoder")
    steps = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    steps = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    names = [str(step.get("type")) for step in steps]
    strips_end = any(step.get("type") == "Strip" and step.get("stop") for step in steps)
    if strips_end or not _STREAMABLE.fullmatch("".join(f"{name} " for name in names)):
        raise InputError(
            f"{path}: the decoder {', '.join(names)} cannot be streamed; allowed: Replace, Metaspace and "
            "ByteFallback, then Fuse, then Strip at the start"
        )
    return names


def _check_ids(ids: Sequence[int]) -> None:
    bad = next((token_id for token_id in ids if not 0 <= token_id < 1 << 32), None)
    if bad is not None:
        raise UsageError(f"token id {bad} is outside any vocabulary")


@contextmanager
def _library_errors(path: Path) -> Iterator[Any]:
    """Turn what the library raises over a malformed file into one line of ours."""
    try:
        yield
    except BaseException as error:
        # A panic of the Rust code is no Exception, so that `except Exception` cannot hide it.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise InputError(f"{path}: not a usable tokenizer.json: {first_line(error)}") from error
