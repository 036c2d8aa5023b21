"""The order of samples: what slows the machine for a while must slow all engines and all cases alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from helium_edge.bench.cases import Case
from helium_edge.bench.engine import Engine

SETTLE_SECONDS = 0.1
"""Pause before another engine's turn: the threads of the one before wait actively for this long after a call."""

Samples = dict[tuple[int, Case], list[float]]
"""Seconds by the place of the engine and the case."""


def order(engines: int, cases: Sequence[Case], repeats: int) -> Iterator[tuple[int, int, Case]]:
    """Repeat, engine and case of each sample.

    Repeats are outermost, so that each case's samples spread over the whole run; engines are innermost, so that
    samples to be compared stand next to each other, and go first in turn.
    """
    for repeat in range(repeats):
        turn = range(engines) if repeat % 2 == 0 else reversed(range(engines))
        places = tuple(turn)
        for case in cases:
            for place in places:
                yield repeat, place, case


def take_samples(
    engines: Sequence[Engine],
    cases: Sequence[Case],
    *,
    repeats: int,
    warmup: int = 1,
    settle: float = SETTLE_SECONDS,
    on_sample: Callable[[Engine, Case], None] = lambda _engine, _case: None,
) -> Samples:
    """Time all cases on all engines.

    Args:
        engines: What is compared; one alone is measured.
        cases: What each of them runs.
        repeats: Samples of each case and engine that count.
        warmup: Rounds before these, which do not.
        settle: Seconds of pause before an engine's turn, where there are several.
        on_sample: Called after each sample.

    Returns:
        Seconds of each sample, in the order in which they were taken: those at the same place in the lists of two
        engines are a pair.
    """
    samples: Samples = {(place, case): [] for place in range(len(engines)) for case in cases}
    before = None
    for repeat, place, case in order(len(engines), cases, warmup + repeats):
        if before not in (None, place):
            time.sleep(settle)
        before = place
        seconds = engines[place].sample(case)
        if repeat >= warmup:
            samples[place, case].append(seconds)
        on_sample(engines[place], case)
    return samples
