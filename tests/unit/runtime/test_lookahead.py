"""Prompt lookup: the same tokens as single steps give, whatever is guessed; when it guesses, and when it rests."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helium_edge.errors import CacheFullError
from helium_edge.runtime.generate import GenerationStats, generate
from helium_edge.runtime.lookahead import LookaheadRunner, NgramLookup, Worth
from helium_edge.runtime.runner import Logits
from helium_edge.runtime.sampling import Sampler, SamplingOptions

VOCAB = 6


class HashRunner:
    """Logits that depend on every token in the cache, so that a wrong cache shows; a small vocabulary repeats."""

    def __init__(self, cache_len: int = 200, period: int = 7) -> None:
        self.vocab_size, self.cache_len = VOCAB, cache_len
        self.ids: list[int] = []
        self.calls = 0
        self._period = period

    @property
    def position(self) -> int:
        return len(self.ids)

    def reset(self) -> None:
        self.ids.clear()

    def seek(self, position: int) -> None:
        assert position <= len(self.ids)
        del self.ids[position:]

    def prefill(self, tokens: Sequence[int]) -> Logits:
        return self.prefill_rows(tokens)[-1:]

    def decode(self, token: int) -> Logits:
        return self.prefill_rows([token])[0]

    def prefill_rows(self, tokens: Sequence[int]) -> Logits:
        if len(self.ids) + len(tokens) > self.cache_len:
            raise CacheFullError("full")
        self.calls += 1
        rows = []
        for token in tokens:
            self.ids.append(token)
            noise = np.random.default_rng(abs(hash(tuple(self.ids)))).normal(size=VOCAB)
            noise[(len(self.ids) * 5) % self._period % VOCAB] += 3  # repeats itself, but not quite
            rows.append(noise.astype(np.float32))
        return np.stack(rows)


def always() -> Worth:
    """Guesses whenever it can: calls take no time."""
    worth = Worth(clock=lambda: 0.0)
    worth.stepped(0.0)
    return worth


def run(runner: Any, prompt: list[int], new: int, temperature: float, eos: tuple[int, ...] = ()) -> list[int]:
    sampler = Sampler(SamplingOptions(temperature=temperature, seed=3, repetition_penalty=1.05))
    stats = GenerationStats()
    return list(generate(runner, prompt, max_new_tokens=new, eos_ids=eos, sampler=sampler, stats=stats))


@given(
    st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=40),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.8]),
    st.sampled_from([(), (5,)]),
    st.sampled_from([30, 64, 200]),
)
def test_every_text_is_that_of_single_steps(
    prompt: list[int], most: int, temperature: float, eos: tuple[int, ...], cache_len: int
) -> None:
    prompt = prompt[: cache_len - 1]
    plain = run(HashRunner(cache_len), prompt, 60, temperature, eos)
    runner = HashRunner(cache_len)
    ahead = LookaheadRunner(runner, (), most, always())
    assert run(ahead, prompt, 60, temperature, eos) == plain
    ahead.settle()
    assert runner.ids == [*prompt, *plain][: len(runner.ids)]
    assert len(runner.ids) == ahead.position >= len(prompt) + len(plain) - 1
    assert ahead.accepted <= ahead.guessed


def test_a_text_that_repeats_takes_fewer_calls() -> None:
    chance = random.Random(0)
    prompt = [chance.randrange(VOCAB) for _ in range(40)]

    class Copying(HashRunner):
        """Goes on as the text went on 20 tokens ago."""

        def prefill_rows(self, tokens: Sequence[int]) -> Logits:
            rows = super().prefill_rows(tokens)
            for row, end in zip(rows, range(len(self.ids) - len(tokens) + 1, len(self.ids) + 1), strict=True):
                row[self.ids[end - 20]] += 100
            return rows

    runner = Copying()
    ahead = LookaheadRunner(runner, (), 7, always())
    assert run(ahead, prompt, 100, 0.0) == run(Copying(), prompt, 100, 0.0)
    assert ahead.calls < 30
    assert runner.calls == ahead.calls + 1


def test_the_lookup_takes_the_longest_match_and_the_last_one() -> None:
    lookup = NgramLookup()
    lookup.extend([1, 2, 3, 9, 9, 2, 3, 8, 8, 1, 2, 3])
    assert lookup.guess(2) == [9, 9]  # 1 2 3 once, 2 3 later
    lookup.extend([8, 2, 3])
    assert lookup.guess(3) == [8, 2, 3]  # where 2 3 stood last
    assert lookup.guess(0) == []
    lookup.extend([7])
    assert lookup.guess(3) == []


def clock(seconds: Iterator[float]) -> Worth:
    return Worth(clock=lambda: next(seconds))


def test_guesses_that_do_not_pay_are_given_up_for_a_while_and_tried_again() -> None:
    worth = Worth()
    assert not worth.wants_guess()  # nothing to compare with yet
    worth.stepped(1.0)
    for _ in range(3):
        assert worth.wants_guess()
        worth.guessed(2.0, 1)
    waited = [worth.wants_guess() for _ in range(17)]
    assert waited == [False] * 16 + [True]
    for _ in range(3):
        worth.guessed(2.0, 1)
    assert [worth.wants_guess() for _ in range(33)] == [False] * 32 + [True]


@pytest.mark.parametrize(("tokens", "pays"), [(3, True), (1, False)])
def test_what_a_call_gives_is_held_against_what_it_takes(tokens: int, pays: bool) -> None:
    worth = Worth()
    worth.stepped(1.0)
    for _ in range(8):
        if worth.wants_guess():
            worth.guessed(1.5, tokens)
    assert worth.wants_guess() is pays
