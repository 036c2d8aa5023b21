"""Greedy continuations: whole words to begin with, the first difference, and whether it means something."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from helium_edge.parity.greedy import NEW_TOKENS, Prompt, compare_greedy, first_words, greedy_rows
from helium_edge.runtime.runner import Logits
from helium_edge.texts import Window
from tests.unit.parity.fakes import FakeRunner

PROMPT = Prompt("en", (1, 5, 6))


class Spaced:
    """Even ids begin a word."""

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f" {token}" if token % 2 == 0 else str(token) for token in ids)

    decode_after_text = decode


def reference() -> Logits:
    return np.concatenate(list(greedy_rows(FakeRunner(), PROMPT.tokens, NEW_TOKENS)))


class Swerves(FakeRunner):
    """Takes the second best token at one step."""

    step = 4

    def decode(self, token: int) -> Logits:
        row = super().decode(token)
        if self.position == len(PROMPT.tokens) + self.step:
            best, second = np.argsort(row)[::-1][:2]
            row[[best, second]] = row[[second, best]]
        return row


def test_rows_are_those_of_the_greedy_path() -> None:
    rows = reference()
    runner = FakeRunner()
    row = runner.prefill(PROMPT.tokens)[-1]
    for expected in rows:
        np.testing.assert_array_equal(row, expected)
        row = runner.decode(int(row.argmax()))


def test_equal_texts() -> None:
    found = compare_greedy(PROMPT, reference(), FakeRunner(), Spaced(), eos_ids=(), near_tie=1e-3)
    assert found.candidate == found.reference
    assert (found.tokens, found.first_divergence, found.margin, found.ambiguous) == (NEW_TOKENS, None, None, False)


def test_the_first_difference_and_its_margin() -> None:
    rows = reference()
    best, second = np.sort(rows[Swerves.step])[::-1][:2]
    margin = float(best - second) / float(np.sqrt(np.square(rows[Swerves.step], dtype=np.float64).mean()))
    found = compare_greedy(PROMPT, rows, Swerves(), Spaced(), eos_ids=(), near_tie=0.99 * margin)
    assert found.first_divergence == Swerves.step
    assert found.margin == pytest.approx(margin)
    assert not found.ambiguous
    assert compare_greedy(PROMPT, rows, Swerves(), Spaced(), eos_ids=(), near_tie=1.01 * margin).ambiguous


def test_nothing_after_the_end_of_a_text() -> None:
    rows = reference()
    end = int(rows[6].argmax())
    found = compare_greedy(PROMPT, rows, FakeRunner(), Spaced(), eos_ids=(end,), near_tie=1e-3)
    assert found.tokens == 1 + [int(row.argmax()) for row in rows].index(end)


def test_prompts_are_whole_words_of_each_language() -> None:
    even, odd = [2 * i for i in range(1, 20)], [2 * i + 1 for i in range(20)]
    windows = [
        Window("en", (1, *even)),
        Window("en", (1, *odd)),
        Window("fr", (1, 4, 5, 7, 8, *odd)),  # a word of many pieces begins at 8 and does not fit
        Window("de", (1, *odd)),  # no word ends
    ]
    found = {prompt.language: prompt.tokens for prompt in first_words(windows, Spaced())}
    assert found == {"en": (1, *even[:11]), "fr": (1, 4, 5, 7), "de": (1, *odd[:11])}
