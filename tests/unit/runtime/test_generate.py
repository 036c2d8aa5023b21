from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from helium_edge.errors import CacheFullError, UsageError
from helium_edge.runtime.generate import GenerationStats, generate
from helium_edge.runtime.runner import Runner, check_tokens
from helium_edge.runtime.sampling import Sampler, SamplingOptions

VOCAB = 10
EOS = 9


class CountingRunner:
    """A decoder whose most likely next token is the last one plus one, so that every feeding error shows."""

    vocab_size = VOCAB

    def __init__(self, cache_len: int = 100, *, all_logits: bool = False) -> None:
        self.cache_len = cache_len
        self.fed: list[int] = []
        self.all_logits = all_logits

    @property
    def position(self) -> int:
        return len(self.fed)

    def reset(self) -> None:
        self.fed.clear()

    def _append(self, tokens: Sequence[int]) -> np.ndarray:
        check_tokens(tokens, position=self.position, cache_len=self.cache_len, vocab_size=VOCAB)
        self.fed.extend(tokens)
        return np.eye(VOCAB, dtype=np.float32)[[(token + 1) % VOCAB for token in tokens]]

    def prefill(self, tokens: Sequence[int]) -> np.ndarray:
        logits = self._append(tokens)
        return logits if self.all_logits else logits[-1:]

    def decode(self, token: int) -> np.ndarray:
        return self._append([token])[0]


def run(runner: Runner, prompt: list[int], limit: int = 50) -> tuple[list[int], GenerationStats]:
    stats = GenerationStats()
    sampler = Sampler(SamplingOptions())
    ids = generate(runner, prompt, max_new_tokens=limit, eos_ids=(EOS,), sampler=sampler, stats=stats)
    return list(ids), stats


@pytest.mark.parametrize("all_logits", [False, True])
def test_stops_at_eos_without_yielding_it(all_logits: bool) -> None:
    runner = CountingRunner(all_logits=all_logits)
    ids, stats = run(runner, [1, 4])
    assert ids == [5, 6, 7, 8]
    assert stats.stop_reason == "eos"
    assert runner.fed == [1, 4, 5, 6, 7, 8]
    assert (stats.prompt_tokens, stats.new_tokens, stats.decode_steps) == (2, 4, 4)


def test_eos_as_the_first_token_yields_nothing() -> None:
    ids, stats = run(CountingRunner(), [8])
    assert (ids, stats.stop_reason, stats.new_tokens, stats.decode_steps) == ([], "eos", 0, 0)
    assert stats.decode_tokens_per_second == 0


@pytest.mark.parametrize("limit", [1, 3])
def test_stops_at_the_limit_and_feeds_nothing_for_naught(limit: int) -> None:
    runner = CountingRunner()
    ids, stats = run(runner, [1], limit)
    assert ids == [2, 3, 4][:limit]
    assert stats.stop_reason == "length"
    assert stats.decode_steps == limit - 1
    assert runner.position == limit


def test_stops_when_the_cache_is_full_after_using_every_slot() -> None:
    runner = CountingRunner(cache_len=4)
    ids, stats = run(runner, [1, 2])
    assert ids == [3, 4, 5]
    assert stats.stop_reason == "cache_full"
    assert runner.position == 4


def test_a_prompt_that_fills_the_cache_still_gives_one_token() -> None:
    ids, stats = run(CountingRunner(cache_len=2), [1, 2])
    assert (ids, stats.stop_reason) == ([3], "cache_full")


def test_a_limit_reached_with_a_full_cache_counts_as_the_limit() -> None:
    assert run(CountingRunner(cache_len=2), [1, 2], limit=1)[1].stop_reason == "length"


def test_a_prompt_that_does_not_fit_is_an_error_and_writes_nothing() -> None:
    runner = CountingRunner(cache_len=2)
    with pytest.raises(CacheFullError):
        run(runner, [1, 2, 3])
    assert runner.position == 0


@pytest.mark.parametrize("prompt", [[], [VOCAB], [-1]])
def test_a_prompt_that_cannot_run_is_a_usage_error(prompt: list[int]) -> None:
    with pytest.raises(UsageError):
        run(CountingRunner(), prompt)


@pytest.mark.parametrize("limit", [0, -1])
def test_a_bad_limit_is_refused_at_the_call(limit: int) -> None:
    runner = CountingRunner()
    with pytest.raises(UsageError, match="max_new_tokens"):
        generate(
            runner,
            [1],
            max_new_tokens=limit,
            eos_ids=(),
            sampler=Sampler(SamplingOptions()),
            stats=GenerationStats(),
        )
    assert runner.fed == []


def test_a_second_call_carries_the_conversation_on() -> None:
    runner = CountingRunner()
    run(runner, [1], 2)
    ids, _ = run(runner, [5], 1)
    assert runner.fed == [1, 2, 5]
    assert ids == [6]


def test_any_eos_of_several_stops() -> None:
    stats = GenerationStats()
    sampler = Sampler(SamplingOptions())
    ids = generate(CountingRunner(), [1], max_new_tokens=9, eos_ids=[EOS, 4], sampler=sampler, stats=stats)
    assert list(ids) == [2, 3]


def test_statistics_are_right_when_the_caller_stops_early(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr("helium_edge.runtime.generate.time.perf_counter", lambda: float(next(ticks)))
    stats = GenerationStats()
    sampler = Sampler(SamplingOptions())
    ids = generate(CountingRunner(), [1, 2], max_new_tokens=9, eos_ids=(), sampler=sampler, stats=stats)
    assert [next(ids), next(ids), next(ids)] == [3, 4, 5]
    assert stats.stop_reason is None
    assert (stats.new_tokens, stats.decode_steps) == (3, 2)
    # The clock moves by one at each look: one look between start and end of prefill, two until the first token.
    assert stats.prefill_seconds == 1
    assert stats.time_to_first_token_seconds == 2
    assert stats.decode_seconds == 2
    assert stats.prefill_tokens_per_second == 2
    assert stats.decode_tokens_per_second == 1
