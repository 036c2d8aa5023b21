"""What a stage has left, when its steps are not alike."""

from __future__ import annotations

import pytest

from cli._remaining import Remaining


def test_nothing_is_said_before_a_step_or_without_a_total() -> None:
    assert Remaining(4, 0.0).seconds(5.0) is None
    unknown = Remaining(None, 0.0)
    unknown.advance(1, 1.0)
    assert unknown.seconds(1.0) is None


def test_layers_of_an_earlier_run_do_not_make_the_others_look_quick() -> None:
    left = Remaining(25, 0.0)
    now = 0.0
    for _ in range(10):
        now += 5
        left.advance(1, now)
    assert left.seconds(now + 40) >= 14 * 40  # while the first of the others runs
    now += 80
    left.advance(1, now)
    assert left.seconds(now) == pytest.approx(14 * 80)


def test_it_counts_down_between_steps_and_not_below_the_others() -> None:
    left = Remaining(4, 0.0)
    left.advance(1, 80.0)
    assert left.seconds(100.0) == pytest.approx(3 * 80 - 20)
    assert left.seconds(400.0) == pytest.approx(2 * 320)
    for now in (160.0, 240.0, 320.0):
        left.advance(1, now)
    assert left.seconds(330.0) == 0.0


def test_many_short_steps_are_judged_by_the_last_minute() -> None:
    left = Remaining(1000, 0.0)
    now = 0.0
    for _ in range(600):
        now += 0.1
        left.advance(1, now)
    for _ in range(100):
        now += 1
        left.advance(1, now)
    assert left.seconds(now) == pytest.approx(300, rel=0.02)
