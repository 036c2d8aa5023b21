"""A text as it is generated, in pieces: ids become text, and stop strings end it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import final

from helium_edge.runtime.generate import GenerationStats
from helium_edge.runtime.lookahead import LookaheadRunner
from helium_edge.runtime.sampling import SamplingOptions
from helium_edge.runtime.stop_strings import StopStrings
from helium_edge.runtime.tokenizer import StreamDecoder


@final
class Generation(Iterator[str]):
    """A text as it is generated: iterate over its pieces.

    Attributes:
        prompt_ids: Token ids of the prompt.
        ids: The new ids so far; those of a stop string are among them, its text is not shown.
        options: How tokens are chosen.
        stats: Times and counts, filled in along the way, and why it stopped.
        reused_tokens: Tokens of the prompt that were in the cache already; `stats.prompt_tokens` are the others.
        dropped_messages: Oldest messages of a conversation that were left out, for want of room in the cache.
        ahead: What guessed tokens, and counts; None where nothing was guessed.
    """

    def __init__(
        self,
        prompt_ids: list[int],
        options: SamplingOptions,
        stats: GenerationStats,
        new_ids: Iterator[int],
        decoder: StreamDecoder,
        stop: StopStrings | None = None,
    ) -> None:
        self.prompt_ids = prompt_ids
        self.ids: list[int] = []
        self.options = options
        self.stats = stats
        self.reused_tokens = 0
        self.dropped_messages = 0
        self.ahead: LookaheadRunner | None = None
        self._pieces = self._decode(new_ids, decoder, stop or StopStrings(()))

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """End the text here; what is in the cache stays."""
        self._pieces.close()

    def _decode(
        self, new_ids: Iterator[int], decoder: StreamDecoder, stop: StopStrings
    ) -> Generator[str, None, None]:
        for token in new_ids:
            self.ids.append(token)
            if piece := stop.push(decoder.push(token)) + stop.push(decoder.unshown(token), shown=False):
                yield piece
            if stop.found:
                self.stats.stop_reason = "stop_string"
                return
        if piece := stop.push(decoder.finish()) + stop.finish():
            yield piece
        if stop.found:
            self.stats.stop_reason = "stop_string"
