"""From texts to requests: where a context ends, `<s>` exactly once, and what is cut to fit the cache.

A choice is never encoded alone: Helium's tokenizer puts a blank in front of every text. Context and choice are
encoded as one text, as the model would read it, and the choice is what follows the tokens of the context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helium_edge.errors import InputError
from helium_edge.evaluate.scorer import Request
from helium_edge.runtime.token_cache import common_prefix
from helium_edge.runtime.tokenizer import Tokenizer


@dataclass
class EncodingCounts:
    """What deserves a look.

    Attributes:
        requests: Requests that were made.
        truncated: Of these, contexts that were cut to fit the cache.
        merged: Of these, choices whose first token also holds the end of the context.
    """

    requests: int = 0
    truncated: int = 0
    merged: int = 0


class Encoder:
    """Makes requests of texts, for one tokenizer and one length of the cache.

    Args:
        tokenizer: Of the bundle.
        bos: Id that every text starts with; None where the model has none.
        cache_len: Tokens that fit. The last token of a choice is never fed, so one more can be scored.
    """

    def __init__(self, tokenizer: Tokenizer, bos: int | None, cache_len: int) -> None:
        self.counts = EncodingCounts()
        self._tokenizer = tokenizer
        self.bos = bos
        self._spelled = "" if bos is None else tokenizer.text_of(bos)
        self._cache_len = cache_len

    def encode(self, text: str) -> list[int]:
        """Ids of a text as a prompt, which start with `<s>` exactly once, also where the text spells it.

        Raises:
            InputError: An empty text, for a model without `<s>`.
        """
        while self._spelled and text.startswith(self._spelled):
            text = text.removeprefix(self._spelled)
        ids = self._tokenizer.encode(text)
        if self.bos is not None and ids[:1] != [self.bos]:
            ids = [self.bos, *ids]  # a template that adds none
        if not ids:
            raise InputError("an empty context has no token, and the model has none to start with")
        return ids

    def request(self, context: str, choice: str) -> Request:
        """A choice behind a context; blanks at the end of the context count to the choice.

        Raises:
            InputError: The choice has no tokens, or does not fit in the cache by itself.
        """
        stripped = context.rstrip()
        choice = context[len(stripped) :] + choice
        before, whole = self.encode(stripped), self.encode(stripped + choice)
        split = common_prefix(before, whole)
        self.counts.requests += 1
        self.counts.merged += split < len(before)
        if split == len(whole):
            raise InputError(f"the choice {choice[:40]!r} has no tokens")
        return self.fit(whole[: max(1, split)], whole[max(1, split) :])

    def fit(self, context: Sequence[int], choice: Sequence[int]) -> Request:
        """A request of ids, its context cut from the left behind `<s>` where both do not fit.

        Raises:
            InputError: The choice does not fit in the cache by itself.
        """
        room = self._cache_len + 1 - len(choice)
        if room < 1:
            raise InputError(f"a choice of {len(choice)} tokens does not fit in a cache of {self._cache_len}")
        return Request(tuple(self._cut(context, room)), tuple(choice))

    def prompt(self, context: str, most_new: int) -> tuple[int, ...]:
        """Ids of a context to continue, cut so that the new tokens fit.

        Raises:
            InputError: So many new tokens do not fit.
        """
        room = self._cache_len - most_new
        if room < 2:
            raise InputError(f"{most_new} new tokens do not fit in a cache of {self._cache_len}")
        self.counts.requests += 1
        return tuple(self._cut(self.encode(context), room))

    def windows(self, text: str) -> list[Request]:
        """A long text in pieces of the cache's length, each of its tokens scored once.

        Every piece starts with `<s>`, on which Helium's attention rests, and those behind the first go on after
        the last token of the one before. (lm-eval's stock windows have `<s>` in the first piece alone.)
        """
        ids = self.encode(text)
        start = 1 if self.bos is not None else 0
        before, rest = ids[:1], ids[1:]
        requests: list[Request] = []
        while rest:
            room = self._cache_len + 1 - len(before)
            requests.append(Request(tuple(before), tuple(rest[:room])))
            before = [*ids[:start], rest[min(room, len(rest)) - 1]]
            rest = rest[room:]
        return requests

    def _cut(self, context: Sequence[int], room: int) -> Sequence[int]:
        if len(context) <= room:
            return context
        self.counts.truncated += 1
        if self.bos is None or room == 1:
            return context[len(context) - room :] if self.bos is None else context[:1]
        return [context[0], *context[len(context) - room + 1 :]]
