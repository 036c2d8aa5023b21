from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from helium_edge.bundle import GoldenTrace, check_golden, record_golden, record_steadiest
from helium_edge.errors import CacheFullError, ParityError
from helium_edge.runtime.runner import Logits, check_tokens


class FakeRunner:
    """Logits that depend on every token so far, so that a wrong context shows."""

    def __init__(self, *, vocab_size: int = 11, cache_len: int = 64, rows: str = "last") -> None:
        self.vocab_size, self.cache_len = vocab_size, cache_len
        self.context: list[int] = []
        self.nudge: dict[int, tuple[int, float]] = {}  # at a context length: token and what is added to its logit
        self._rows = rows

    @property
    def position(self) -> int:
        return len(self.context)

    def reset(self) -> None:
        self.context = []

    def prefill(self, tokens: Sequence[int]) -> Logits:
        rows = [self.decode(token) for token in tokens]
        return np.stack(rows if self._rows == "all" else rows[-1:])

    def decode(self, token: int) -> Logits:
        check_tokens([token], position=self.position, cache_len=self.cache_len, vocab_size=self.vocab_size)
        self.context.append(token)
        row = np.random.default_rng(self.context).normal(size=self.vocab_size).astype(np.float32)
        if len(self.context) in self.nudge:
            token, amount = self.nudge[len(self.context)]
            row[token] += amount
        return row


PROMPT = (1, 4, 9)


def record(runner: FakeRunner, **options: object) -> GoldenTrace:
    return record_golden(runner, "text", PROMPT, **options)  # type: ignore[arg-type]


def plain_greedy(count: int) -> list[int]:
    runner = FakeRunner()
    row = runner.prefill(PROMPT)[-1]
    tokens = []
    for _ in range(count):
        tokens.append(int(np.argmax(row)))
        row = runner.decode(tokens[-1])
    return tokens


@pytest.mark.parametrize("rows", ["last", "all"])
def test_the_trace_is_the_greedy_run(rows: str) -> None:
    runner = FakeRunner(rows=rows)
    runner.decode(3)  # an earlier conversation
    trace = record(runner)
    assert trace.prompt_ids == PROMPT
    assert list(trace.greedy_ids) == plain_greedy(32)
    assert runner.position == 0
    first = np.sort(FakeRunner().prefill(PROMPT)[-1])[::-1]
    assert [top.logit for top in trace.top5_first] == pytest.approx(first[:5], abs=1e-5)
    assert trace.top5_first[0].id == trace.greedy_ids[0]
    assert trace.margins[0] == pytest.approx(first[0] - first[1], abs=2e-5)
    assert min(trace.margins) >= 0
    assert record(FakeRunner(rows=rows)) == trace


def test_an_end_token_is_recorded_and_ends_the_trace() -> None:
    greedy = plain_greedy(32)
    eos = greedy[5]
    assert list(record(FakeRunner(), eos_ids=[eos]).greedy_ids) == greedy[: greedy.index(eos) + 1]


def test_a_full_cache_ends_the_trace() -> None:
    runner = FakeRunner(cache_len=len(PROMPT) + 4)
    # The token after a full cache is still known; it just cannot be fed.
    assert list(record(runner).greedy_ids) == plain_greedy(5)
    assert check_golden(runner, record(runner), 0.0).steps == 5


def test_a_prompt_that_fills_the_cache_and_one_that_does_not_fit() -> None:
    assert len(record(FakeRunner(cache_len=len(PROMPT))).greedy_ids) == 1
    with pytest.raises(CacheFullError):
        record(FakeRunner(cache_len=2))


def test_the_same_runner_passes_at_no_tolerance_but_rounding() -> None:
    check = check_golden(FakeRunner(), record(FakeRunner()), 0.0)
    assert (check.steps, check.near_ties) == (32, ())


@pytest.mark.parametrize("step", [0, 1, 17, 31])
def test_another_choice_is_found_at_any_step(step: int) -> None:
    trace = record(FakeRunner())
    runner = FakeRunner()
    other = (trace.greedy_ids[step] + 1) % 11
    runner.nudge = {len(PROMPT) + step: (other, 20.0)}
    with pytest.raises(ParityError) as caught:
        check_golden(runner, trace, 1e-3)
    assert caught.value.exit_code == 4
    # At the first step, the recorded logits may give it away before the choice does.
    assert f"step {step} chooses token {other}" in caught.value.message or (
        step == 0 and "after the prompt" in str(caught.value)
    )


@pytest.mark.parametrize("step", [0, 9])
def test_a_near_tie_is_counted_and_the_rest_is_still_compared(step: int) -> None:
    trace = record(FakeRunner())
    row_of = FakeRunner()
    row = row_of.prefill([*PROMPT, *trace.greedy_ids[:step]])[-1]
    second = int(np.argsort(-row)[1])
    runner = FakeRunner()
    runner.nudge = {len(PROMPT) + step: (second, trace.margins[step] + 0.01)}
    tolerance = trace.margins[step] + 0.02
    assert check_golden(runner, trace, tolerance).near_ties == (step,)
    later = len(PROMPT) + 20
    runner.nudge[later] = ((trace.greedy_ids[20] + 1) % 11, 20.0)
    with pytest.raises(ParityError, match="step 20"):
        check_golden(runner, trace, tolerance)


def test_a_small_margin_does_not_excuse_a_far_choice() -> None:
    trace = record(FakeRunner())
    runner = FakeRunner()
    runner.nudge = {len(PROMPT) + 3: ((trace.greedy_ids[3] + 1) % 11, 20.0)}
    with pytest.raises(ParityError, match="step 3"):
        check_golden(runner, trace, trace.margins[3] + 0.1)


def test_equal_choices_with_other_logits_are_found_at_the_first_step() -> None:
    runner = FakeRunner()
    trace = record(FakeRunner())
    runner.nudge = {len(PROMPT): (trace.top5_first[4].id, -0.5)}
    with pytest.raises(ParityError, match=f"the logit of token {trace.top5_first[4].id} is"):
        check_golden(runner, trace, 0.1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("step", [0, 2])
def test_logits_that_are_no_numbers(value: float, step: int) -> None:
    trace = record(FakeRunner())
    runner = FakeRunner()
    runner.nudge = {len(PROMPT) + step: (0, value)}
    for run in (lambda: record(runner), lambda: check_golden(runner, trace, 1.0)):
        with pytest.raises(ParityError, match=f"step {step} returns 1 NaN or infinite logits of 11"):
            run()


def test_tolerances_follow_the_spread_of_the_logits_and_what_kernels_round() -> None:
    runner = FakeRunner()
    spread = float(np.std(runner.prefill([1, 2])[-1]))
    runner.reset()
    found = record_golden(runner, "p", [1, 2], new_tokens=2, rounding=0.1).tolerances
    plain = record_golden(runner, "p", [1, 2], new_tokens=2).tolerances
    assert found is not None
    assert plain is not None
    assert (found.same, found.other) == pytest.approx((1e-3 * spread, 0.1 * spread), rel=0.06)
    assert plain.same == plain.other == found.same


def steadiest(
    prompts: Sequence[Sequence[int]], runner: FakeRunner | None = None, rounding: float = 9.0, **options: object
) -> GoldenTrace:
    named = [(str(number), prompt) for number, prompt in enumerate(prompts)]
    chosen = runner or FakeRunner(vocab_size=40)
    return record_steadiest(chosen, named, new_tokens=8, rounding=rounding, **options)  # type: ignore[arg-type]


def alone(prompts: Sequence[Sequence[int]], rounding: float = 9.0) -> list[GoldenTrace]:
    runner = FakeRunner(vocab_size=40)
    return [record_golden(runner, "", prompt, new_tokens=8, rounding=rounding) for prompt in prompts]


def test_of_several_prompts_the_one_whose_smallest_margin_is_largest() -> None:
    prompts = [[first, 2] for first in range(12)]
    runs = alone(prompts)
    least = [min(trace.margins) for trace in runs]
    best = least.index(max(least))
    assert best not in (0, 11)
    found = steadiest(prompts)
    assert (found.prompt, found.greedy_ids) == (str(best), runs[best].greedy_ids)
    assert steadiest([*prompts, prompts[best]]) == found


def test_a_run_that_cannot_win_is_left() -> None:
    runner = FakeRunner(vocab_size=40)
    steps: list[int] = []
    decode = runner.decode
    runner.decode = lambda token: (steps.append(token), decode(token))[1]  # type: ignore[method-assign]
    steadiest([[first, 2] for first in range(12)], runner)
    assert len(steps) < 12 * (2 + 7) * 0.8
    assert runner.position == 0


def test_the_first_whose_margins_are_beyond_the_tolerance_is_good_enough() -> None:
    prompts = [[first, 2] for first in range(12)]
    runs = alone(prompts, rounding=0.03)
    beyond = [trace.tolerances is not None and min(trace.margins) > trace.tolerances.other for trace in runs]
    assert not beyond[0]
    assert beyond.count(True) > 1
    assert steadiest(prompts, rounding=0.03).prompt == str(beyond.index(True))


def test_a_run_that_ends_early_or_goes_in_circles_is_taken_only_when_all_do() -> None:
    circle = FakeRunner(vocab_size=40)
    circle.decode = lambda token: np.eye(40, dtype=np.float32)[3] * 9  # type: ignore[method-assign, assignment]
    assert steadiest([[1], [2]], circle).prompt == "0"

    class Mixed(FakeRunner):
        def decode(self, token: int) -> Logits:
            row = super().decode(token)
            return np.eye(40, dtype=np.float32)[3] * 9 if self.context[0] == 7 else row

    assert steadiest([[7], [2], [7]], Mixed(vocab_size=40)).prompt == "1"
    end = record_golden(FakeRunner(vocab_size=40), "", [7], new_tokens=8).greedy_ids[2]
    assert steadiest([[7], [2]], eos_ids=[end]).prompt == "1"


def test_a_prompt_that_leaves_no_room_is_passed_over() -> None:
    assert steadiest([[1, 2], [3] * 57], FakeRunner(vocab_size=40)).prompt == "0"
