from __future__ import annotations

import numpy as np
import pytest

from arm64.compare import CallResult
from arm64.golden import golden_calls, judge_golden
from helium_edge.bundle import GoldenTrace
from helium_edge.bundle.golden import Tolerances, TopToken
from helium_edge.errors import ParityError
from tests.unit.bundle.bundles import make_manifest

TRACE = GoldenTrace(
    prompt="ab",
    prompt_ids=(1, 2),
    greedy_ids=(3, 5, 4),
    margins=(1.0, 0.1, 2.0),
    top5_first=(TopToken(id=3, logit=4.0), TopToken(id=0, logit=3.0)),
    tolerances=Tolerances(same=0.001, other=0.2),
)


def results(*rows: dict[int, float]) -> list[CallResult]:
    """An unfinished chunk of the prompt, then a row for each step; other logits are 0."""
    found = [CallResult(np.full((1, 7), 9, np.float32), [])]
    for values in rows:
        row = np.zeros((1, 7), np.float32)
        row[0, list(values)] = list(values.values())
        found.append(CallResult(row, []))
    return found


def test_the_recorded_tokens_are_fed_back() -> None:
    calls = golden_calls(make_manifest(), TRACE)
    assert [token for call in calls for token in call.tokens] == [1, 2, 3, 5]
    assert [call.phase for call in calls][-2:] == ["decode", "decode"]


def test_within_the_tolerance_of_other_kernels() -> None:
    check = judge_golden(TRACE, results({3: 4.1, 0: 2.9}, {5: 1.0, 6: 1.05}, {4: 2.0}))
    assert (check.steps, check.near_ties) == (3, (1,))


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (({3: 4.3, 0: 3.0}, {5: 1.0}, {4: 2.0}), "after the prompt the logit of token 3"),
        (({3: 4.0, 0: 3.0}, {5: 1.0, 6: 1.3}, {4: 2.0}), "step 1 chooses token 6"),
        (({3: 4.0, 0: 3.0}, {5: 1.0}, {1: 0.1}), "step 2 chooses token 1"),
        (({3: 4.0, 0: 3.0}, {5: float("nan")}, {4: 2.0}), "NaN"),
    ],
)
def test_beyond_it(rows: tuple[dict[int, float], ...], says: str) -> None:
    with pytest.raises(ParityError, match=says):
        judge_golden(TRACE, results(*rows))
