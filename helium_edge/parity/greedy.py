"""Greedy continuations side by side: where an export first writes another token than its original."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from helium_edge.parity.document import GreedySample
from helium_edge.runtime.runner import Logits, Runner
from helium_edge.texts import Window

NEW_TOKENS = 32

_PROMPT_TOKENS = 12
"""Most tokens of a prompt."""


class Codec(Protocol):
    """What is needed of a tokenizer."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids."""
        ...

    def decode_after_text(self, ids: Sequence[int]) -> str:
        """Text of ids that follow others, the space in front kept."""
        ...


@dataclass(frozen=True)
class Prompt:
    """The beginning of a conversation, BOS in front where the text has it."""

    language: str
    tokens: tuple[int, ...]


def first_words(windows: Sequence[Window], codec: Codec) -> list[Prompt]:
    """A prompt a language: the first words of its first window, none of them cut."""
    firsts = {window.language: window.tokens for window in reversed(windows)}
    languages = dict.fromkeys(window.language for window in windows)
    return [Prompt(language, _whole_words(firsts[language], codec)) for language in languages]


def _whole_words(tokens: Sequence[int], codec: Codec) -> tuple[int, ...]:
    most = min(_PROMPT_TOKENS, len(tokens) - 1)
    ends = (end for end in range(most, 1, -1) if codec.decode_after_text([tokens[end]])[:1].isspace())
    return tuple(tokens[: next(ends, most)])


def greedy_rows(runner: Runner, prompt: Sequence[int], count: int) -> Iterator[Logits]:
    """Logits (1, V) of `count` greedy steps of a new conversation, the first of them after the prompt."""
    runner.reset()
    row = runner.prefill(prompt)[-1]
    for left in range(count - 1, -1, -1):
        yield row[None]
        if left:
            row = runner.decode(int(row.argmax()))


def compare_greedy(
    prompt: Prompt,
    reference: Logits,
    candidate: Runner,
    codec: Codec,
    *,
    eos_ids: Collection[int],
    near_tie: float,
) -> GreedySample:
    """Continue a prompt greedily and compare.

    Args:
        prompt: What to continue.
        reference: (N, V) the reference's logits along its own greedy path.
        candidate: The export.
        codec: Turns ids into text.
        eos_ids: Ids that end a text.
        near_tie: A divergence is ambiguous where the reference's margin is below this share of rms(logit).
    """
    expected = [int(row.argmax()) for row in reference]
    end = next((at for at, token in enumerate(expected) if token in eos_ids), len(expected) - 1) + 1
    expected = expected[:end]
    found = [int(row[0].argmax()) for row in greedy_rows(candidate, prompt.tokens, len(expected))]
    at = next((index for index, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1]), None)
    margin = None
    if at is not None:
        row = reference[at].astype(np.float64)
        margin = float((row[expected[at]] - row[found[at]]) / np.sqrt(np.square(row).mean()))
    return GreedySample(
        language=prompt.language,
        prompt=codec.decode(list(prompt.tokens)),
        reference=codec.decode_after_text(expected),
        candidate=codec.decode_after_text(found),
        tokens=len(expected),
        first_divergence=at,
        margin=margin,
        ambiguous=margin is not None and margin < near_tie,
    )
