from __future__ import annotations

from dataclasses import dataclass, field

from helium_edge.bench.cases import Case
from helium_edge.bench.schedule import order, take_samples

CASES = [Case("decode", 0, 4), Case("decode", 512, 4)]


@dataclass
class Scripted:
    """Says how often it was asked; `log` is shared, to see who came when."""

    name: str
    log: list[str]
    asked: list[Case] = field(default_factory=list)

    def sample(self, case: Case) -> float:
        self.asked.append(case)
        self.log.append(f"{self.name}{case.context}")
        return float(len(self.asked))


def test_engines_alternate_sample_by_sample_and_go_first_in_turn() -> None:
    log: list[str] = []
    engines = [Scripted("a", log), Scripted("b", log)]
    take_samples(engines, CASES, repeats=2, warmup=0, settle=0)
    assert log == ["a0", "b0", "a512", "b512", "b0", "a0", "b512", "a512"]


def test_every_engine_is_asked_for_every_case_as_often() -> None:
    found = list(order(3, CASES, 5))
    assert len(found) == 3 * 2 * 5
    assert {(place, case): 5 for place in range(3) for case in CASES} == {
        key: [(place, case) for _, place, case in found].count(key) for key in {(p, c) for _, p, c in found}
    }


def test_warm_up_is_run_and_not_counted() -> None:
    engine = Scripted("a", [])
    samples = take_samples([engine], CASES, repeats=3, warmup=2)
    assert len(engine.asked) == 2 * (2 + 3)
    assert samples == {(0, CASES[0]): [5.0, 7.0, 9.0], (0, CASES[1]): [6.0, 8.0, 10.0]}


def test_pairs_stand_at_the_same_place() -> None:
    """Whichever goes first, the samples of one repeat are those that are compared."""
    log: list[str] = []
    engines = [Scripted("a", log), Scripted("b", log)]
    samples = take_samples(engines, CASES[:1], repeats=4, warmup=1, settle=0)
    assert samples[0, CASES[0]] == samples[1, CASES[0]] == [2.0, 3.0, 4.0, 5.0]
