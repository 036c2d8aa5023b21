"""Token ids of a text in which only some parts may spell special tokens: a chat template's, not its users'.

Ids are those that the tokenizer itself gives for the whole text where no user's part spells a special token. Where
one does, it is cut into ordinary pieces: `</s>` into `<`, `/`, `s` and `>`, or what the vocabulary has.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from helium_edge.errors import UsageError
from helium_edge.runtime.tokenizer import Tokenizer

_MARKS = ("\U000f1f3e", "\U000f1f3f")
"""Private characters: in front of each character of a special token that a user spelled, and behind its last."""
_HIDDEN = re.compile(f"(?:{_MARKS[0]}[^{_MARKS[0]}{_MARKS[1]}])+{_MARKS[1]}?")


class SpanEncoder:
    """Encodes spans of text.

    Args:
        tokenizer: Encodes texts without special tokens of users.
        texts: What templates write themselves: added tokens that they spell are special too.
        ids: Further ids that users must not spell, as those that end a text.

    Raises:
        InputError: The file is not usable.
    """

    def __init__(self, tokenizer: Tokenizer, texts: Sequence[str] = (), ids: Collection[int] = ()) -> None:
        added = [token for token in tokenizer.data().get("added_tokens") or [] if _is_token(token)]
        self._protected = {
            token["content"]: token
            for token in added
            if token.get("special") or token["id"] in ids or any(token["content"] in text for text in texts)
            if token["content"].strip()  # line breaks and blanks may be added tokens, and are text all the same
        }
        longest = sorted(self._protected, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest)) or r"(?!)")
        self._ids = {token["id"] for token in self._protected.values()} | set(ids)
        self._anywhere = re.compile(f"(?=({self._pattern.pattern}))")
        self._tokenizer = tokenizer

    def encode(self, spans: Sequence[tuple[str, bool]]) -> list[int]:
        """Ids of the joined text, without what the tokenizer's own template puts around a text.

        Args:
            spans: Pieces of text, each with whether special tokens in it are meant as such.

        Raises:
            UsageError: The text is no valid Unicode, or spells a special token that the vocabulary has no other
                pieces for.
        """
        text = "".join(piece for piece, _ in spans)
        parts = _own_parts(spans)
        spelled = [match.span(1) for match in self._anywhere.finditer(text)]
        if all(any(first <= start and end <= last for first, last in parts) for start, end in spelled):
            return self._tokenizer.encode(text, bare=True)
        ids: list[int] = []
        done = 0
        for start, end, token in self._special(text, parts):
            ids += self._encode_plain(text[done:start])
            ids.append(token)
            done = end
        return ids + self._encode_plain(text[done:])

    @functools.cached_property
    def _plain(self) -> Tokenizer:
        """A tokenizer that has no special tokens; made when the first text needs it, which is seldom."""
        content = json.dumps(_without(self._tokenizer.data(), self._protected)).encode()
        return Tokenizer(self._tokenizer.path, content)

    def first_special(self, text: str) -> int | None:
        """Id of the special token that a template's text begins with; None where it begins with none."""
        match = self._pattern.match(text)
        return None if match is None else int(self._protected[match[0]]["id"])

    def hide(self, texts: Sequence[str]) -> list[str]:
        """Texts of users in which no special token is spelled, for a template that is a program; see `shown`."""
        marks = "".join(_MARKS)
        bare = [text.translate({ord(mark): None for mark in marks}) for text in texts]
        return [
            self._pattern.sub(lambda match: _MARKS[0].join(("", *match[0])) + _MARKS[1], text) for text in bare
        ]

    def shown(self, text: str) -> list[tuple[str, bool]]:
        """Spans of what a template wrote of hidden texts: as they were, and what was hidden no template's own."""
        spans: list[tuple[str, bool]] = []
        done = 0
        for match in _HIDDEN.finditer(text):
            spans.append((text[done : match.start()], True))
            spans.append((match[0].translate({ord(mark): None for mark in _MARKS}), False))
            done = match.end()
        return [*spans, (text[done:], True)]

    def _special(self, text: str, parts: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
        """Special tokens of the template's parts: where they begin and end, blanks that they take included."""
        done = 0
        for first, last in parts:
            for match in self._pattern.finditer(text, first, last):
                token = self._protected[match[0]]
                start, end = match.span()
                if start < done:
                    continue
                while token.get("lstrip") and start > done and text[start - 1].isspace():
                    start -= 1
                while token.get("rstrip") and end < len(text) and text[end].isspace():
                    end += 1
                yield start, end, token["id"]
                done = end

    def _encode_plain(self, text: str) -> list[int]:
        if not text:
            return []
        ids = self._plain.encode(text, bare=True)
        if not self._ids.isdisjoint(ids):
            raise UsageError("the text spells a special token for which the vocabulary has no other pieces")
        return ids


def _own_parts(spans: Sequence[tuple[str, bool]]) -> list[tuple[int, int]]:
    """Where the template's own parts lie in the joined text; neighbours are one."""
    parts: list[tuple[int, int]] = []
    at = 0
    for text, own in spans:
        if own and parts and parts[-1][1] == at:
            parts[-1] = (parts[-1][0], at + len(text))
        elif own:
            parts.append((at, at + len(text)))
        at += len(text)
    return parts


def _without(data: dict[str, Any], protected: Collection[str]) -> dict[str, Any]:
    """A tokenizer that cannot make the protected tokens: not added ones, and with names that no text has."""
    model = data.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    hidden = secrets.token_hex(8)
    if isinstance(vocab, list):  # Unigram: pieces with scores, where a special token may be the likeliest piece
        vocab = [
            [f"{hidden}{entry[0]}", *entry[1:]]
            if isinstance(entry, list) and entry[:1] and entry[0] in protected
            else entry
            for entry in vocab
        ]
    elif isinstance(vocab, dict) and isinstance(model, dict):
        vocab = {(f"{hidden}{piece}" if piece in protected and piece not in _merged(model) else piece): index
                 for piece, index in vocab.items()}  # fmt: skip
    added = [token for token in data.get("added_tokens") or [] if token.get("content") not in protected]
    changed = {**model, "vocab": vocab} if isinstance(model, dict) else model
    if isinstance(changed, dict) and changed.get("unk_token") in protected:
        changed["unk_token"] = f"{hidden}{changed['unk_token']}"
    return {**data, "model": changed, "added_tokens": added, "post_processor": None}


def _merged(model: dict[str, Any]) -> set[str]:
    """Pieces that a merge of BPE makes or takes: their names cannot change."""
    merges = model.get("merges") or []
    pairs = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in merges]
    return {piece for pair in pairs for piece in (*pair, "".join(pair))}


def _is_token(token: Any) -> bool:
    return isinstance(token, dict) and isinstance(token.get("content"), str) and isinstance(token.get("id"), int)
