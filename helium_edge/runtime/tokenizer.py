"""Text to token ids and back, by the checkpoint's own `tokenizer.json`; and text out of a stream of ids.

Owns what streaming needs to know of a decoder; everything else is the `tokenizers` library. Two kinds of
decoders are accepted. In the SentencePiece kind, which every Helium has, each token stands for its own text, save
that a run of byte tokens (`<0xE2>`) is decoded as a whole and that the first blank of the text is dropped. In the
byte-level kind each token stands for bytes, and a character may begin in one token and end in another.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tokenizers

from helium_edge.documents import first_line
from helium_edge.errors import InputError, UsageError
from helium_edge.runtime.quiet import quiet
from helium_edge.runtime.time_limit import TimeLimitError, run_limited
from helium_edge.runtime.tokenizer_rules import has_expressions, read_tokenizer_file

# Steps of a decoder after which the text of a token still does not depend on its neighbours, in this order.
# A Replace after Fuse would see the whole text, a byte-level decoder cuts characters between tokens.
_STREAMABLE = re.compile(r"((Replace|Metaspace|ByteFallback) )*(Fuse )?(Strip )*")
_BYTE_LEVEL = ["ByteLevel"]

ENCODE_SECONDS = 10.0
"""How long a text may be matched with a file's own regular expressions, besides the time for its length."""

_CHARACTERS_PER_SECOND = 10_000

# A little more than the library takes for a byte: to wait for one token more than needed is harmless.
_BYTE_TOKEN = re.compile(r"<0x..>", re.DOTALL)


class Tokenizer:
    """The tokenizer of a checkpoint or bundle.

    Args:
        path: A `tokenizer.json`.
        content: What to read in its place; the file is then only named in messages.

    Raises:
        InputError: The file is missing, malformed, or of a kind that cannot be streamed.
    """

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        self._path = path
        self._content = content
        data = read_tokenizer_file(path, content)
        decoder = _read_decoder(path, data)
        self._has_expressions = has_expressions(data)
        del data
        # The library's Rust code prints a backtrace before it raises.
        with library_errors(path), quiet():
            if content is None:
                self._inner = tokenizers.Tokenizer.from_file(str(path))
            else:
                self._inner = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
            # Helium's file switches padding on; a prompt is one sequence and never cut.
            self._inner.no_padding()
            self._inner.no_truncation()
            # Some faults of a file, as a template with an unknown token, show only at work.
            self._inner.decode(self._encode("a"))
            added = self._inner.get_added_tokens_decoder()
        self._added = {index: str(token.content) for index, token in added.items()}
        self._skipped = frozenset(index for index, token in added.items() if token.special)
        self._has_byte_fallback = "ByteFallback" in decoder
        self.is_byte_level = decoder == _BYTE_LEVEL
        self._anchor = self._find_anchor()

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included."""
        return int(self._inner.get_vocab_size(with_added_tokens=True))

    @property
    def largest_id(self) -> int:
        """The largest id of any token; ids may have gaps."""
        return max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1)

    @property
    def path(self) -> Path:
        """The file that it was read from."""
        return self._path

    def data(self) -> dict[str, Any]:
        """What the file says."""
        return read_tokenizer_file(self._path, self._content)

    def ids_from(self, least: int) -> set[int]:
        """All ids of tokens from one id on."""
        return {index for index in self._inner.get_vocab(with_added_tokens=True).values() if index >= least}

    def text_of(self, token_id: int) -> str:
        """How the vocabulary spells a token; empty where there is none of this id."""
        return self._added.get(token_id) or self._inner.id_to_token(token_id) or ""

    def encode(self, text: str, *, bare: bool = False) -> list[int]:
        """Token ids of a text, with the special tokens of the file's own template (Helium: `<s>` in front).

        Args:
            text: The text; where it spells a special token, it is one.
            bare: Leave the special tokens of the template out.

        Raises:
            UsageError: The text is no valid Unicode.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UsageError(f"the text is not valid Unicode at character {error.start}") from error
        with library_errors(self._path):
            if not self._has_expressions:
                return list(self._inner.encode(text, add_special_tokens=not bare).ids)
            with quiet():  # the library gives up on some expressions, with a backtrace
                return self._encode(text, bare=bare)

    def _encode(self, text: str, *, bare: bool = False) -> list[int]:
        if not self._has_expressions:
            return list(self._inner.encode(text, add_special_tokens=not bare).ids)

        def work() -> list[int]:
            return list(
                self._inner.encode_batch([text], add_special_tokens=not bare)[0].ids
            )  # unlike `encode` it lets other threads run

        try:
            return run_limited(work, ENCODE_SECONDS + len(text) / _CHARACTERS_PER_SECOND)
        except TimeLimitError as error:
            raise InputError(
                f"{self._path}: a regular expression of the tokenizer takes too long on this text; given up"
            ) from error

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids; special tokens and ids without a token have none.

        Raises:
            UsageError: A negative id, or one that no tokenizer can hold.
        """
        _check_ids(ids)
        with library_errors(self._path):
            return str(self._inner.decode(list(ids), skip_special_tokens=True))

    def stream(self, *, continuing: bool = False) -> StreamDecoder:
        """A decoder for ids that come one by one.

        Args:
            continuing: Whether text stands before the first id, as a prompt does; its leading blank is then kept.
        """
        return StreamDecoder(self, continuing=continuing)

    def token_bytes(self, token_id: int) -> bytes:
        """Bytes of a token of a byte-level tokenizer."""
        token = self._inner.id_to_token(token_id) or ""
        try:
            return bytes(_BYTES_OF[character] for character in token)
        except KeyError:  # an added token is spelled as it is
            return token.encode("utf-8")

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

    def spell(self, ids: Sequence[int]) -> str:
        """Text of ids as it reads after some other text, with that of special tokens."""
        with library_errors(self._path):
            whole = str(self._inner.decode([self._anchor, *ids], skip_special_tokens=False))
        return whole[len(self.decode([self._anchor])) :]

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
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace") if tokenizer.is_byte_level else None

    def push(self, token_id: int) -> str:
        """Add one id and return the text that is now complete, often none.

        Raises:
            UsageError: A negative id, or one that no tokenizer can hold.
        """
        _check_ids([token_id])
        if self._tokenizer.is_silent(token_id):
            return ""
        if self._utf8 is not None:
            return self._utf8.decode(self._tokenizer.token_bytes(token_id))
        self._pending.append(token_id)
        return "" if self._tokenizer.is_byte(token_id) else self._flush()

    def unshown(self, token_id: int) -> str:
        """Text of a special token, which `push` leaves out; that of others is empty."""
        return self._tokenizer.text_of(token_id) if self._tokenizer.is_silent(token_id) else ""

    def finish(self) -> str:
        """Return the rest; a character that is still incomplete reads U+FFFD, as in the text of all ids."""
        return self._flush() if self._utf8 is None else self._utf8.decode(b"", final=True)

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


def _byte_alphabet() -> dict[str, int]:
    """The character that stands for each byte in a byte-level vocabulary, which is that of GPT-2.

    Bytes that print stand for themselves; the others, in order, have the characters from U+0100 on.
    """
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + at): byte for at, byte in enumerate(hidden)}


_BYTES_OF = _byte_alphabet()


def _read_decoder(path: Path, data: dict[str, Any]) -> list[str]:
    """Step types of the decoder in the file.

    Raises:
        InputError: Its decoder cannot be streamed.
    """
    decoder = data.get("decoder")
    steps = decoder.get("decoders", [decoder]) if isinstance(decoder, dict) else []
    steps = [step for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    names = [str(step.get("type")) for step in steps]
    strips_end = any(step.get("type") == "Strip" and step.get("stop") for step in steps)
    if names == _BYTE_LEVEL:
        return names
    if strips_end or not _STREAMABLE.fullmatch("".join(f"{name} " for name in names)):
        raise InputError(
            f"{path}: the decoder {', '.join(names)} cannot be streamed; allowed: Replace, Metaspace and "
            "ByteFallback, then Fuse, then Strip at the start; or ByteLevel alone"
        )
    return names


def _check_ids(ids: Sequence[int]) -> None:
    bad = next((token_id for token_id in ids if not 0 <= token_id < 1 << 32), None)
    if bad is not None:
        raise UsageError(f"token id {bad} is outside any vocabulary")


_OF_NEWER = ("Unknown tokenizer version", "untagged enum", "unknown variant")
"""What the library says of kinds of parts that it does not know."""


@contextmanager
def library_errors(path: Path) -> Iterator[Any]:
    """Turn what the library raises over a malformed file into one line of ours."""
    try:
        yield
    except BaseException as error:
        # A panic of the Rust code is no Exception, so that `except Exception` cannot hide it.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        line = first_line(error)
        newer = any(part in line for part in _OF_NEWER)
        hint = (
            f"it may be of a newer tokenizers library than {tokenizers.__version__}: upgrade that" if newer else ""
        )
        raise InputError(f"{path}: not a usable tokenizer.json: {line}", hint=hint) from error
