"""The golden trace: a recorded greedy run that lets any host check its own loop against ours.

A margin is the distance in logits between the chosen token and the runner-up: where it is smaller than the
tolerance, another processor may rightly choose the other one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, model_validator

from helium_edge.bundle.sections import Section, TokenId
from helium_edge.errors import ParityError
from helium_edge.runtime.runner import Logits, Runner
from helium_edge.schemas import Items

GOLDEN_TOKENS = 32
TOP_TOKENS = 5

_DECIMALS = 5
"""Of recorded logits: finer than any tolerance."""

_ROUNDING = 10.0**-_DECIMALS

_SUMMATION = 1e-3
"""Relative error of logits that the order of sums, and the instructions of one kind of processor, may make."""


class TopToken(Section):
    """A token and its logit."""

    id: TokenId
    logit: float


class Tolerances(Section):
    """How far a logit may lie from the recorded one, and how near a tie is, by the kernels of the host."""

    same: Annotated[float, Field(ge=0)]
    """The runtime that recorded the trace, on the same kind of processor (x86-64)."""
    other: Annotated[float, Field(ge=0)]
    """Any other: a browser, a GPU, an ARM phone. Their kernels round activations otherwise, or not at all."""


class GoldenTrace(Section):
    """A prompt and what greedy decoding makes of it."""

    prompt: str
    prompt_ids: Annotated[Items[TokenId], Field(min_length=1)]
    """What the tokenizer makes of the prompt, special tokens included."""
    greedy_ids: Items[TokenId]
    """The most likely token of each step, until an end token, which is included, or the length asked for."""
    margins: Items[float]
    """Logit of each greedy token minus that of the runner-up."""
    top5_first: Items[TopToken]
    """The five most likely tokens after the prompt, best first."""
    tolerances: Tolerances | None = None
    """None in bundles of schema version 1.4 and before."""

    @model_validator(mode="after")
    def _check(self) -> GoldenTrace:
        if len(self.margins) != len(self.greedy_ids):
            raise ValueError(f"{len(self.margins)} margins do not fit {len(self.greedy_ids)} greedy ids")
        return self

    def token_ids(self) -> tuple[int, ...]:
        """Every token id that the trace names."""
        return (*self.prompt_ids, *self.greedy_ids, *(top.id for top in self.top5_first))


@dataclass(frozen=True)
class GoldenCheck:
    """How a run compares with a trace: steps that were compared, and those of them that were near ties.

    A near tie is a step whose choice differs where both tokens are within the tolerance.
    """

    steps: int
    near_ties: tuple[int, ...]


def record_golden(
    runner: Runner,
    prompt: str,
    prompt_ids: Sequence[int],
    *,
    new_tokens: int = GOLDEN_TOKENS,
    eos_ids: Collection[int] = (),
    rounding: float = 0.0,
) -> GoldenTrace:
    """Record a greedy run in a new conversation; the runner is reset afterwards.

    Fewer than `new_tokens` are recorded when an end token comes or the cache is full.

    Args:
        runner: Of the bundle.
        prompt: The text.
        prompt_ids: Its token ids.
        new_tokens: How many tokens to choose.
        eos_ids: Tokens that end a text.
        rounding: Relative error of logits between kernels that round activations differently; 0 for float kernels.

    Raises:
        CacheFullError: The prompt does not fit in the cache.
        ParityError: The runner returns NaN or infinity.
    """
    trace = _record(runner, prompt, prompt_ids, new_tokens, eos_ids, rounding, None)
    assert trace is not None
    return trace


def record_steadiest(
    runner: Runner,
    prompts: Sequence[tuple[str, Sequence[int]]],
    *,
    new_tokens: int = GOLDEN_TOKENS,
    eos_ids: Collection[int] = (),
    rounding: float = 0.0,
) -> GoldenTrace:
    """Record the greedy run that other kernels are least likely to leave: that of the largest smallest margin.

    The first whose margins are all beyond the tolerance of other kernels is good enough. A run that ends early, or
    goes round in circles, is taken only when all do: it would hide errors. Of equal ones the first is taken. A run
    is left as soon as it cannot win, so that most cost a few steps.

    Args:
        runner: Of the bundle.
        prompts: Texts and their token ids, at least one.
        new_tokens: How many tokens to choose.
        eos_ids: Tokens that end a text.
        rounding: As of `record_golden`.

    Raises:
        CacheFullError: The first prompt does not fit in the cache; others that leave no room are passed over.
        ParityError: The runner returns NaN or infinity.
    """
    (text, ids), *others = prompts
    best = record_golden(runner, text, ids, new_tokens=new_tokens, eos_ids=eos_ids, rounding=rounding)
    for text, ids in others:
        if _telling(best, new_tokens) and min(best.margins) > _allowed(best):
            break
        if len(ids) + new_tokens > runner.cache_len:
            continue
        floor = min(best.margins) if _telling(best, new_tokens) else None
        found = _record(runner, text, ids, new_tokens, eos_ids, rounding, floor)
        if found is not None and _telling(found, new_tokens):
            best = found
    return best


def _allowed(trace: GoldenTrace) -> float:
    """How far a logit may be off with other kernels."""
    return trace.tolerances.other if trace.tolerances is not None else 0.0


def _telling(trace: GoldenTrace, new_tokens: int) -> bool:
    """Whether a run is whole and does not repeat itself."""
    return len(trace.greedy_ids) == new_tokens and 2 * len(set(trace.greedy_ids)) >= new_tokens


def _record(
    runner: Runner,
    prompt: str,
    prompt_ids: Sequence[int],
    new_tokens: int,
    eos_ids: Collection[int],
    rounding: float,
    floor: float | None,
) -> GoldenTrace | None:
    """See `record_golden`; None once a margin is not above `floor`, if one is given."""
    runner.reset()
    row = _last_row(runner.prefill(prompt_ids), step=0)
    spread = float(np.std(row.astype(np.float64)))
    top5 = tuple(TopToken(id=int(token), logit=_rounded(row[token])) for token in _best(row, TOP_TOKENS))
    greedy: list[int] = []
    margins: list[float] = []
    while True:
        first, *others = _best(row, 2)
        greedy.append(int(first))
        margins.append(_rounded(row[first] - row[others[0]]) if others else 0.0)
        if floor is not None and margins[-1] <= floor:
            runner.reset()
            return None
        full = runner.position >= runner.cache_len
        if len(greedy) >= new_tokens or greedy[-1] in eos_ids or full:
            break
        row = _last_row(runner.decode(greedy[-1]), step=len(greedy))
    runner.reset()
    return GoldenTrace(
        prompt=prompt,
        prompt_ids=tuple(int(token) for token in prompt_ids),
        greedy_ids=tuple(greedy),
        margins=tuple(margins),
        top5_first=top5,
        tolerances=Tolerances(
            same=_tolerance(_SUMMATION * spread), other=_tolerance(max(_SUMMATION, rounding) * spread)
        ),
    )


def check_golden(runner: Runner, trace: GoldenTrace, tolerance: float) -> GoldenCheck:
    """Compare a runner with a trace in a new conversation; the runner is reset afterwards.

    The trace's own tokens are fed back, so that a near tie does not end the comparison: every step sees the
    recorded context.

    Args:
        runner: What is checked.
        trace: What it should do.
        tolerance: Largest difference of logits that counts as equal.

    Raises:
        ParityError: A first logit differs by more than `tolerance`, or a step chooses another token although
            the recorded margin, or its own, is larger than `tolerance`.
    """
    runner.reset()
    row = _last_row(runner.prefill(trace.prompt_ids), step=0)
    for top in trace.top5_first:
        found = float(row[top.id])
        if abs(found - top.logit) > tolerance + _ROUNDING:
            raise ParityError(
                f"golden trace: after the prompt the logit of token {top.id} is {found:.5f}, recorded "
                f"{top.logit:.5f}; allowed difference {tolerance:g}"
            )
    near_ties: list[int] = []
    for step, (expected, margin) in enumerate(zip(trace.greedy_ids, trace.margins, strict=True)):
        if step:
            row = _last_row(runner.decode(trace.greedy_ids[step - 1]), step=step)
        chosen = int(np.argmax(row))
        if chosen == expected:
            continue
        if margin > tolerance + _ROUNDING or float(row[chosen] - row[expected]) > tolerance:
            raise ParityError(
                f"golden trace: step {step} chooses token {chosen}, recorded {expected} with a margin of "
                f"{margin:.5f}; allowed difference {tolerance:g}"
            )
        near_ties.append(step)
    runner.reset()
    return GoldenCheck(steps=len(trace.greedy_ids), near_ties=tuple(near_ties))


def _best(row: Logits, count: int) -> list[int]:
    """Ids of the largest logits, best first; of equal ones the smaller id first, as argmax chooses."""
    return [int(token) for token in np.argsort(-row, kind="stable")[:count]]


def _last_row(logits: Logits, *, step: int) -> Logits:
    row = logits if logits.ndim == 1 else logits[-1]
    if not bool(np.isfinite(row).all()):
        bad = int((~np.isfinite(row)).sum())
        raise ParityError(f"golden trace: step {step} returns {bad} NaN or infinite logits of {row.size}")
    return row


def _tolerance(value: float) -> float:
    """With two digits: more of them would say nothing."""
    return float(f"{value:.1e}")


def _rounded(value: np.float32) -> float:
    return round(float(value), _DECIMALS)
