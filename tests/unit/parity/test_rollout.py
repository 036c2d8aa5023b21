"""Which positions are compared, how the runners are called, and that planted faults turn the report red."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Literal

import numpy as np
import pytest

from helium_edge.errors import CacheFullError, ParityError, UsageError
from helium_edge.parity import LevelReport, ParityReport
from helium_edge.parity.metrics import compare_rows
from helium_edge.parity.rollout import MIN_WINDOW, prefill_split, rollout, split_of_turn
from helium_edge.parity.statistics import aggregate
from helium_edge.parity.verdict import GateResult, judge_budget
from helium_edge.recipe import Gates
from helium_edge.runtime.rows import all_rows
from helium_edge.runtime.runner import Logits, Runner
from helium_edge.signature import LogitsMode
from helium_edge.texts import Window
from tests.helpers.progress import Recorder
from tests.unit.parity import fakes
from tests.unit.parity.fakes import VOCAB, FakeRunner, true_row
from tests.unit.parity.levels import run_level

FP32 = Gates(mean_kld=1e-7, top1=0.9999, ppl_ratio=1.00001, max_logit_error=1e-3)
NO_GATES = Gates()


def tokens(count: int, seed: int = 0) -> tuple[int, ...]:
    return (1, *np.random.default_rng(seed).integers(4, VOCAB, count - 1).tolist())


def windows(*lengths: int) -> list[Window]:
    return [Window("en" if i % 2 == 0 else "fr", tokens(length, i)) for i, length in enumerate(lengths)]


@pytest.mark.parametrize(
    ("length", "chunk", "expected"),
    [
        (256, 32, 64 + 9),  # a third is 85: two chunks and an odd tail
        (256, 128, 128 + 41),  # one chunk would be more than a third; a tail is worth more
        (100, 64, 64 + 1),
        (96, 64, 32),  # no room for a tail within two thirds: one padded chunk
        (40, 128, 13),
        (30, 1, 10),
        (30, 2, 10 + 1),
        (4, 128, 1),
        (3, 128, 1),
    ],
)
def test_prefill_split(length: int, chunk: int, expected: int) -> None:
    assert prefill_split(length, chunk) == expected


def test_prefill_split_leaves_something_to_decode() -> None:
    for length in range(MIN_WINDOW, 300):
        for chunk in (1, 2, 3, 7, 8, 16, 32, 100, 128):
            split = prefill_split(length, chunk)
            assert 1 <= split <= max(1, 2 * length // 3) < length - 1 or (length == 3 and split == 1)
            if split > chunk > 1:
                assert (split % chunk) % 2 == 1  # ragged


@pytest.mark.parametrize(
    ("length", "widths", "splits"),
    [
        (256, [128], [128 + 41, 128 + 41]),
        (48, [8, 12], [12 + 9, 12 + 3, 12 + 9]),
        (512, [8, 32, 128], [128 + 65, 128 + 17, 128 + 3]),
        (64, [8, 32, 128], [21, 17, 3]),  # no room for half of 128 within two thirds
        (48, [2, 12], [12 + 7, 12 + 2]),  # two tokens are never ragged
    ],
)
def test_each_graph_has_its_turn(length: int, widths: list[int], splits: list[int]) -> None:
    assert [split_of_turn(length, widths, turn) for turn in range(len(splits))] == splits


@pytest.mark.parametrize("length", [3, 4, 20, 24, 130, 200])
@pytest.mark.parametrize("logits", ["last", "all"])
def test_positions_of_a_rollout(length: int, logits: LogitsMode) -> None:
    ids = tokens(length)
    steps = list(rollout(FakeRunner(logits=logits), ids, widths=[8]))
    first = 0 if logits == "all" else prefill_split(length, 8) - 1
    positions = [position for step in steps for position in range(step.first_row, step.end)]
    assert positions == list(range(first, length - 1))
    rows = [row for step in steps for row in step.logits]
    for position, row in zip(positions, rows, strict=True):
        np.testing.assert_array_equal(row, true_row(ids[: position + 1]))
    assert [token for step in steps for token in step.tokens] == list(ids[:-1])


@pytest.mark.parametrize("length", [1, 2, 3, 64, 65, 130])
@pytest.mark.parametrize("logits", ["last", "all"])
def test_rows_of_a_reference(length: int, logits: LogitsMode) -> None:
    ids = tokens(length)
    rows = np.concatenate(list(all_rows(FakeRunner(logits=logits), ids)))
    np.testing.assert_array_equal(rows, [true_row(ids[: position + 1]) for position in range(length)])


def test_how_the_candidate_is_called() -> None:
    ids = tokens(40)
    candidate = FakeRunner()
    list(rollout(candidate, ids, widths=[8]))
    split = prefill_split(40, 8)
    assert split == 8 + 1
    assert candidate.calls == [
        ("reset", ()),
        ("prefill", ids[:split]),
        *[("decode", (token,)) for token in ids[split:-1]],
    ]


def test_windows_take_turns_in_the_graph_of_the_last_chunk() -> None:
    candidate, widths = FakeRunner(), [8, 12]
    chosen = windows(48, 48, 48)
    run_level(candidate, FakeRunner(), chosen, gates=NO_GATES, prefill_tokens=widths)
    prompts = [len(ids) for call, ids in candidate.calls if call == "prefill"]
    assert prompts == [split_of_turn(48, widths, turn) for turn in range(3)] == [12 + 9, 12 + 3, 12 + 9]


def test_too_short() -> None:
    with pytest.raises(UsageError, match="2 tokens"):
        list(rollout(FakeRunner(), tokens(2), widths=[8]))


@pytest.mark.parametrize("reference_logits", ["last", "all"])
def test_equal_runners_pass(reference_logits: LogitsMode) -> None:
    report = parity(FakeRunner(), reference_logits)
    assert report.passed
    assert report.failures == []
    assert report.overall.kld_max == 0
    assert report.overall.top1 == 1


def parity(candidate: Runner, reference_logits: LogitsMode = "all", gates: Gates = FP32) -> LevelReport:
    reference = FakeRunner(logits=reference_logits)
    return run_level(candidate, reference, windows(30, 41, 29), gates=gates, prefill_tokens=8)


@pytest.mark.parametrize("reference_logits", ["last", "all"])
@pytest.mark.parametrize(
    "fault", ["WrongSlot", "StaleCache", "WrongLastIndex", "DroppedTail", "PaddedTail", "LateNan"]
)
def test_planted_faults_fail(fault: str, reference_logits: LogitsMode) -> None:
    report = parity(getattr(fakes, fault)(), reference_logits)
    assert not report.passed
    assert any("mean_kld" in failure for failure in report.failures)
    assert report.document().to_json()["passed"] is False


def test_faults_also_fail_the_loose_gates_of_int4() -> None:
    gates = Gates(mean_kld=0.06, top1=0.9, ppl_ratio=1.05)
    for fault in ("WrongSlot", "StaleCache", "WrongLastIndex", "DroppedTail", "PaddedTail", "LateNan"):
        assert not parity(getattr(fakes, fault)(), gates=gates).passed, fault


def test_only_later_windows_see_a_stale_cache() -> None:
    """So the reset between windows is what finds it."""
    reference = FakeRunner(logits="all")
    one = run_level(fakes.StaleCache(), reference, windows(30), gates=FP32, prefill_tokens=8)
    assert one.passed
    two = run_level(fakes.StaleCache(), reference, windows(30, 30), gates=FP32, prefill_tokens=8)
    assert not two.passed
    assert two.languages["en"].kld_max == 0
    assert two.languages["fr"].kld_mean > 0.1


def test_nan_fails_without_any_gate() -> None:
    report = parity(fakes.LateNan(), gates=NO_GATES)
    assert not report.passed
    assert report.failures == ["nonfinite 3 is above the limit 0"]
    whole = ParityReport((report,))
    text = json.dumps(whole.to_json(), allow_nan=False)
    assert json.loads(text)["levels"]["L3"]["overall"]["kld_mean"] is None
    assert whole.summary()["mean_kld"] is None


def test_gates_without_limit_are_reported_only() -> None:
    report = parity(FakeRunner(noise=2.0), gates=Gates(top1=0.01))
    assert report.passed
    gates = {gate["name"]: gate for gate in report.document().to_json()["gates"]}
    assert list(gates) == ["nonfinite", "mean_kld", "top1", "ppl_ratio", "max_logit_error"]
    assert gates["mean_kld"]["limit"] is None
    assert gates["mean_kld"]["passed"] is None
    assert gates["mean_kld"]["measured"] > 0.1
    assert gates["top1"] == {
        "name": "top1",
        "measured": pytest.approx(report.overall.top1_decided, rel=1e-5),
        "standard_error": pytest.approx(gates["top1"]["standard_error"]),
        "bound": "min",
        "limit": 0.01,
        "passed": True,
    }


@pytest.mark.parametrize(
    ("gates", "failure"),
    [
        (Gates(mean_kld=0.05), "mean_kld {0.kld_mean:.6g} is above the limit 0.05"),
        (Gates(top1=0.99), "top1 {0.top1_decided:.6g} is below the limit 0.99"),
        (Gates(ppl_ratio=1.001), "ppl_ratio {0.ppl_ratio:.6g} is above the limit 1.001"),
        (Gates(max_logit_error=0.01), "max_logit_error {0.max_logit_error:.6g} is above the limit 0.01"),
    ],
)
def test_each_gate_fails_alone(gates: Gates, failure: str) -> None:
    report = parity(FakeRunner(noise=2.0), gates=gates)
    assert report.failures == [failure.format(report.overall)]


def test_near_ties_do_not_fail_the_gate() -> None:
    reference = np.array([[1.0, 1.0, -5.0], [0.0, 9.0, 0.0]], np.float32)
    candidate = np.array([[0.9, 1.0, -5.0], [0.0, 9.0, 0.0]], np.float32)
    overall = aggregate(compare_rows(reference, candidate, [0, 0]), near_tie=FP32.near_tie)
    assert (overall.top1, overall.ambiguous) == (0.5, 1)
    top1 = next(gate for gate in judge_budget(FP32, overall) if gate.name == "top1")
    assert (top1.measured, top1.passed, top1.failure) == (1.0, True, None)


@pytest.mark.parametrize("bound", ["max", "min"])
def test_nan_passes_no_gate(bound: Literal["max", "min"]) -> None:
    gate = GateResult("mean_kld", math.nan, 0.5, bound)
    assert gate.passed is False
    assert gate.failure == "mean_kld is nan, the limit is 0.5"


@pytest.mark.parametrize(
    ("bound", "within", "outside"), [("max", 0.5 + 0.19, 0.5 + 0.21), ("min", 0.5 - 0.19, 0.5 - 0.21)]
)
def test_a_gate_is_no_tighter_than_two_standard_errors(
    bound: Literal["max", "min"], within: float, outside: float
) -> None:
    assert GateResult("g", within, 0.5, bound, standard_error=0.1).passed is True
    assert GateResult("g", outside, 0.5, bound, standard_error=0.1).passed is False
    assert GateResult("g", within, 0.5, bound, standard_error=math.nan).passed is False


def test_a_value_at_the_limit_passes() -> None:
    overall = parity(FakeRunner(noise=2.0), gates=NO_GATES).overall
    assert overall.ppl_ratio > 1
    at = Gates(mean_kld=overall.kld_mean, top1=overall.top1_decided, ppl_ratio=overall.ppl_ratio)
    assert parity(FakeRunner(noise=2.0), gates=at).passed


def test_report() -> None:
    progress = Recorder()
    level = run_level(
        FakeRunner(noise=0.1), FakeRunner(logits="all"), windows(30, 41, 29),
        gates=FP32, prefill_tokens=8, progress=progress,
    )  # fmt: skip
    lengths = {"en": (30, 29), "fr": (41,)}
    compared = {
        language: sum(length - prefill_split(length, 8) for length in sizes) for language, sizes in lengths.items()
    }
    assert {language: figures.tokens for language, figures in level.languages.items()} == compared
    assert level.overall.tokens == sum(compared.values())
    weighted = sum(level.languages[name].kld_mean * compared[name] for name in compared)
    assert level.overall.kld_mean == pytest.approx(weighted / level.overall.tokens)
    assert sum(progress.amounts) == 97
    assert level.histogram is not None
    assert (
        sum(level.histogram.counts) == sum(bucket.tokens for bucket in level.by_position) == level.overall.tokens
    )
    elsewhere = dataclasses.replace(level, processor="arm64")
    report = ParityReport((level,), (elsewhere,))
    data = report.to_json()
    assert (data["schema"], data["schema_version"], list(data["levels"])) == ("helium-edge/parity", "2.1", ["L3"])
    found = data["levels"]["L3"]
    assert found["windows"] == 3
    assert list(found["languages"]) == ["en", "fr"]
    assert found["overall"]["kld_mean"] == float(f"{level.overall.kld_mean:.5e}")
    assert data["elsewhere"] == {"arm64": found}
    assert level.failures
    assert report.failures == [f"{name} {line}" for name in ("L3", "L3 arm64") for line in level.failures]
    assert report.summary() == {
        "level": "L3",
        "passed": False,
        "levels": ["L3"],
        "tokens": level.overall.tokens,
        "languages": ["en", "fr"],
        "mean_kld": float(f"{level.overall.kld_mean:.2e}"),
        "mean_kld_se": float(f"{level.overall.kld_mean_se:.2e}"),
        "top1": float(f"{level.overall.top1:.2e}"),
        "top1_decided": float(f"{level.overall.top1_decided:.2e}"),
        "ppl_ratio": float(f"{level.overall.ppl_ratio:.2e}"),
        "max_logit_error": float(f"{level.overall.max_logit_error:.2e}"),
    }


def test_two_runs_write_the_same_json() -> None:
    first, second = (parity(FakeRunner(noise=0.3)) for _ in range(2))
    assert json.dumps(first.document().to_json()) == json.dumps(second.document().to_json())


def test_refusals() -> None:
    def run(candidate: Runner, *lengths: int, chunk: int = 8) -> None:
        run_level(candidate, FakeRunner(), windows(*lengths), gates=FP32, prefill_tokens=chunk)

    with pytest.raises(UsageError, match="no windows"):
        run(FakeRunner())
    with pytest.raises(UsageError, match="prefill chunk of 0"):
        run(FakeRunner(), 30, chunk=0)
    with pytest.raises(UsageError, match=r"41 tokens does not fit a KV cache of 40"):
        run(FakeRunner(cache_len=40), 30, 41)
    run(FakeRunner(cache_len=41), 30, 41)
    other = FakeRunner()
    other.vocab_size = 51
    with pytest.raises(ParityError, match="vocabulary of 51, the reference of 50"):
        run(other, 30)


class Misshapen(FakeRunner):
    def __init__(self, phase: str) -> None:
        super().__init__()
        self.phase = phase

    def prefill(self, rows: object) -> Logits:
        logits = super().prefill(rows)  # type: ignore[arg-type]
        return np.concatenate([logits, logits]) if self.phase == "prefill" else logits

    def decode(self, token: int) -> Logits:
        row = super().decode(token)
        return row[None] if self.phase == "decode" else row


@pytest.mark.parametrize(("phase", "shape"), [("prefill", r"\(2, 50\) for 9 tokens"), ("decode", r"\(1, 50\)")])
def test_logits_of_another_shape(phase: str, shape: str) -> None:
    with pytest.raises(ParityError, match=f"candidate.*{shape}"):
        run_level(Misshapen(phase), FakeRunner(), windows(30), gates=FP32, prefill_tokens=8)


def test_errors_of_a_runner_come_through() -> None:
    class Full(FakeRunner):
        def decode(self, token: int) -> Logits:
            raise CacheFullError("full")

    with pytest.raises(CacheFullError, match="full"):
        run_level(Full(), FakeRunner(), windows(30), gates=FP32, prefill_tokens=8)
