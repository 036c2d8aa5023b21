"""Greedy continuations as texts, up to a stop string, `</s>` or a number of tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from helium_edge.evaluate.encoding import Encoder
from helium_edge.evaluate.scorer import Scorer
from helium_edge.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Continuation:
    """A prompt to continue.

    Attributes:
        prompt: The text before.
        until: Texts that end the continuation, and are not part of it.
        most: Upper bound of its tokens.
    """

    prompt: str
    until: tuple[str, ...]
    most: int


class _Text:
    """Grows a text; ends where a stop string is whole, or at one of the ids that end generation."""

    def __init__(self, tokenizer: Tokenizer, until: Sequence[str], eos: Collection[int]) -> None:
        self._stream = tokenizer.stream(continuing=True)
        self._until = [text for text in until if text]
        self._eos = eos
        self._text = ""

    def push(self, token: int) -> bool:
        if token in self._eos:
            return False
        self._text += self._stream.push(token)
        return not any(text in self._text for text in self._until)

    def finish(self) -> str:
        text = self._text + self._stream.finish()
        ends = [text.find(stop) for stop in self._until if stop in text]
        return text[: min(ends, default=len(text))]


def continue_all(
    scorer: Scorer,
    encoder: Encoder,
    tokenizer: Tokenizer,
    eos: Collection[int],
    jobs: Sequence[Continuation],
    on_job: Callable[[], None] = lambda: None,
) -> list[str]:
    """Continuations of all jobs, in their order.

    Args:
        scorer: Runs them.
        encoder: Makes ids of prompts.
        tokenizer: Makes texts of ids.
        eos: Ids that end a text.
        jobs: What to continue.
        on_job: Called after each.

    Raises:
        InputError: A prompt and its new tokens do not fit in the cache.
        BundleError: As of `Scorer.score`.
    """
    texts = [""] * len(jobs)
    for most in sorted({job.most for job in jobs}):
        indices = [index for index, job in enumerate(jobs) if job.most == most]
        growing = [_Text(tokenizer, jobs[index].until, eos) for index in indices]
        contexts = [encoder.prompt(jobs[index].prompt, most) for index in indices]
        for at, _ in scorer.generate(contexts, most, growing.__getitem__):
            texts[indices[at]] = growing[at].finish()
            on_job()
    return texts
