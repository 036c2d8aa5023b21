from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from arm64.compare import (
    TOLERANCE,
    Arm64Report,
    CallDifference,
    CallResult,
    difference,
    limits,
    read_results,
    run_here,
)
from arm64.script import Call
from helium_edge.bundle import QuantizationSection, TargetSection
from helium_edge.errors import BundleError
from helium_edge.recipe import load_recipe
from helium_edge.signature import CacheSpec, DecoderSpec
from tests.unit.bundle.bundles import Report, make_manifest

SPEC = DecoderSpec(7, CacheSpec(2, 3, 16, 4, "append"), 4)
CALLS = [Call(0, "prefill", (1, 2)), Call(1, "decode", (3,))]


class FakeRunner:
    """Logits and rows that are functions of token and position."""

    vocab_size, cache_len = 7, 16

    def __init__(self) -> None:
        self.position = 5  # a conversation before
        self.cache_buffers = [np.zeros((1, 3, 16, 4), np.float32) for _ in range(4)]

    def reset(self) -> None:
        self.position = 0

    def prefill(self, tokens: tuple[int, ...]) -> Any:
        for token in tokens:
            for index, buffer in enumerate(self.cache_buffers):
                buffer[0, :, self.position] = 100 * index + 10 * token + np.arange(3)[:, None]
            self.position += 1
        return np.full((1, 7), tokens[-1], np.float32)

    def decode(self, token: int) -> Any:
        return self.prefill((token,))[0]


def written(results: list[CallResult]) -> bytes:
    return b"".join(part.tobytes() for result in results for part in (result.logits, *result.rows))


def test_rows_of_every_call_are_taken_from_the_cache() -> None:
    first, second = run_here(FakeRunner(), CALLS)
    assert [row.shape for row in first.rows] == [(3, 2, 4)] * 4
    assert [row.shape for row in second.rows] == [(3, 1, 4)] * 4
    assert first.rows[1][:, :, 0].tolist() == [[110, 120], [111, 121], [112, 122]]
    assert second.rows[3][:, 0, 0].tolist() == [330, 331, 332]
    assert second.logits.tolist() == [[3.0] * 7]


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_results_are_read_back_as_they_were_written(dtype: str) -> None:
    expected = [
        CallResult(result.logits, [rows.astype(dtype) for rows in result.rows])
        for result in run_here(FakeRunner(), CALLS)
    ]
    spec = replace(SPEC, cache=replace(SPEC.cache, dtype=dtype))
    found = list(read_results(written(expected), spec, CALLS))
    for one, other in zip(found, expected, strict=True):
        assert [rows.dtype for rows in one.rows] == [dtype] * 4
        assert np.array_equal(one.logits, other.logits)
        assert all(np.array_equal(a, b) for a, b in zip(one.rows, other.rows, strict=True))


def test_all_logits_are_read_where_the_graph_gives_all() -> None:
    spec = DecoderSpec(7, SPEC.cache, 4, "all")
    values = np.arange(2 * 7 + 4 * 24 + 7 + 4 * 12, dtype=np.float32)
    first, second = read_results(values.tobytes(), spec, CALLS)
    assert (first.logits.shape, second.logits.shape) == ((2, 7), (1, 7))
    assert second.logits[0, 0] == 14 + 96


@pytest.mark.parametrize(("change", "word"), [(-1, "less"), (1, "more")])
def test_output_of_another_size_is_refused(change: int, word: str) -> None:
    size = len(written(run_here(FakeRunner(), CALLS))) + change
    with pytest.raises(BundleError, match=f"wrote {word} than"):
        list(read_results(bytes(size), SPEC, CALLS))


def random_result(seed: int = 0) -> CallResult:
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(3, 1, 4)).astype(np.float32) * 10**index for index in range(4)]
    return CallResult(rng.normal(size=(1, 7)).astype(np.float32), rows)


def test_differences_are_relative_to_what_this_machine_has() -> None:
    expected = random_result()
    logits = expected.logits.copy()
    rms = np.sqrt(np.mean(np.square(expected.logits, dtype=np.float64)))
    logits[0, 2] += 0.5 * rms
    rows = [*expected.rows[:2], expected.rows[2] * 1.25, expected.rows[3]]
    found = difference(CALLS[1], CallResult(logits, rows), expected)
    assert (found.phase, found.tokens) == ("decode", 1)
    assert found.logits_max == pytest.approx(0.5, rel=1e-5)
    assert found.logits_rms == pytest.approx(0.5 / np.sqrt(7), rel=1e-5)
    assert found.cache_rms == pytest.approx(0.25, rel=1e-5)
    assert found.worst == found.cache_rms


def test_equal_results_differ_by_nothing_zeros_included() -> None:
    zeros = CallResult(np.zeros((1, 7), np.float32), [np.zeros((3, 1, 4), np.float32)] * 4)
    for result in (random_result(), zeros):
        found = difference(CALLS[1], result, result)
        assert (found.worst, found.same_choice) == (0, True)
    assert difference(CALLS[1], random_result(), zeros).worst > 1e9


@pytest.mark.parametrize("place", ["logits", "rows"])
def test_what_is_not_finite_fails(place: str) -> None:
    expected, found = random_result(), random_result()
    (found.logits if place == "logits" else found.rows[1])[0, 0] = np.nan
    result = report(difference(CALLS[1], found, expected), same(0.0))
    assert not result.passed
    assert np.isnan(result.worst)
    assert len(result.failures) == 2


def same(error: float, phase: str = "decode") -> CallDifference:
    return CallDifference(phase, 1, error, 2 * error, error, same_choice=True)


def report(*calls: CallDifference, limit: float = 0.05, median_limit: float = TOLERANCE) -> Arm64Report:
    return Arm64Report("cortex-a76", "executorch 1.5.1", limit, median_limit, calls)


def test_one_flip_passes_and_many_do_not() -> None:
    assert report(same(2e-7), same(3e-7), same(2e-2)).passed
    many = report(same(2e-7), same(1e-2), same(2e-2))
    assert many.failures == ["on ARM64 (cortex-a76) the median call is off by 0.01, limit 1e-05"]
    assert many.agreeing == 1
    assert report(same(2e-7), same(1e-2), same(2e-2), median_limit=0.05).passed


def test_one_call_beyond_the_limit_fails() -> None:
    (failure,) = report(same(2e-7), same(3e-7), same(6e-2, "prefill")).failures
    assert failure == "on ARM64 (cortex-a76) 1 of 3 calls are off by more than 0.05 (relative rms), by 0.06 first"


def test_figures_of_the_document() -> None:
    document = report(same(2e-7), same(3e-7), same(2e-2)).to_json()
    assert document["agreeing_calls"] == 2
    assert (document["median"], document["worst"], document["logits_max"]) == (3e-7, 2e-2, 4e-2)
    assert document["passed"] is True


def test_limits_follow_the_arithmetic_of_the_bundle() -> None:
    section = QuantizationSection.from_reports(
        load_recipe("onnx-fp32"),
        [Report("lm_head.weight", (160, 64), "float32", 0.0, 40960)],
        fingerprint="cd" * 32,
    )
    assert limits(make_manifest(quantization=section)) == (TOLERANCE, TOLERANCE)
    quantized = make_manifest()
    assert limits(quantized) == (pytest.approx(0.02), pytest.approx(0.02))
    xnnpack = make_manifest(target=TargetSection(name="xnnpack", options={}))
    assert limits(xnnpack) == (pytest.approx(0.02), TOLERANCE)
    large = xnnpack.model.model_copy(update={"hidden_size": 2560, "intermediate_size": 7040, "layers": 24})
    limit, median_limit = limits(xnnpack.model_copy(update={"model": large}))
    assert limit == median_limit == pytest.approx(0.098, abs=1e-3)


@pytest.mark.parametrize(("errors", "fails"), [((3e-7, 4e-7, 2e-2), False), ((3e-7, 2e-5, 3e-5), True)])
def test_the_median_token_follows_the_rule(errors: tuple[float, ...], fails: bool) -> None:
    """A flip here and there is none of its business."""
    call = CallDifference("decode", 3, 1e-2, 1e-2, 1e-2, True, of_rule=errors)
    report = Arm64Report("cortex-a76", "onnxruntime 9", 0.1, 0.1, (call,), rule="int8 per token")
    assert len(report.failures) == fails
    assert all(
        "median token is off by 2e-05 from torch that rounds int8 per token" in line for line in report.failures
    )
    assert report.to_json()["rule_equal_tokens"] == sum(error <= 1e-5 for error in errors)
