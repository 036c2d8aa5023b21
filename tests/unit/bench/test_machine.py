from __future__ import annotations

import os
import time

import pytest

from helium_edge.bench import machine
from helium_edge.bench.bandwidth import read_test
from helium_edge.bench.run import notes


def test_threads_of_one_core_count_once() -> None:
    pairs = {0: "0,4", 1: "1,5", 4: "0,4", 5: "1,5"}
    assert machine.count_cores(pairs, pairs.get) == 2
    assert machine.count_cores([0, 4], pairs.get) == 1
    assert machine.count_cores([], pairs.get) == 1
    assert 1 <= machine.physical_cores() <= len(machine.usable_cpus())


def test_facts_are_plain_data() -> None:
    facts = machine.facts()
    assert facts["cores"] >= 1
    assert all(value is None or isinstance(value, str | int) for value in facts.values())


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="only Linux tells")
def test_memory_tells_anonymous_from_mapped() -> None:
    before = machine.process_memory()["anonymous_bytes"]
    held = b"x" * (64 << 20)
    after = machine.process_memory()
    assert before is not None
    assert after["anonymous_bytes"] is not None
    assert after["anonymous_bytes"] - before >= 0.9 * len(held)
    assert after["mapped_bytes"]


def test_own_time_is_not_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([(100, 1000), (190, 1100)])
    own = iter([20, 70])
    monkeypatch.setattr(machine, "_ticks", lambda: next(ticks))
    monkeypatch.setattr(machine, "_process_ticks", lambda _pid: next(own))
    assert machine.BusyMeter([4711]).share_of_others() == pytest.approx(0.4)


def test_a_process_has_ticks() -> None:
    start = time.process_time()
    while time.process_time() - start < 0.05:
        pass
    assert machine._process_ticks(os.getpid()) > 0
    assert machine._process_ticks(1 << 30) == 0


def test_the_read_test_reads() -> None:
    assert 1e8 < read_test(1, 8 << 20) < 1e13


@pytest.mark.parametrize(
    ("load", "bandwidth", "expected"),
    [
        ({"busy_share": 0.01, "others_share": 0.02}, {"before": 60e9, "after": 58e9}, []),
        ({"busy_share": 0.0, "others_share": 0.3}, {"before": 60e9, "after": 58e9}, ["others used 30%"]),
        ({"busy_share": 0.5, "others_share": 0.02}, {"before": 60e9, "after": 58e9}, ["busy at the start (50%"]),
        ({"busy_share": None, "others_share": None}, {"before": 60e9, "after": 38e9}, ["38.0 and 60.0 GB/s"]),
    ],
)
def test_doubtful_figures_are_said_to_be(
    load: dict[str, float | None], bandwidth: dict[str, float], expected: list[str]
) -> None:
    found = notes(load, bandwidth)
    assert len(found) == len(expected)
    assert all(part in text for part, text in zip(expected, found, strict=True))
