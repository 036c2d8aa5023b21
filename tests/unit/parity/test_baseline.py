from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import pytest

from helium_edge.errors import InputError
from helium_edge.parity.baseline import BaselineReport, compare_with_baseline, write_baseline
from helium_edge.parity.document import read_document
from tests.unit.report.documents import passing


def compare(now: Any, then: Any) -> BaselineReport:
    return compare_with_baseline(now, then, source="base.json")


def changed(level: str, text: str, **figures: float) -> Any:
    """A passing document with other figures for one text of one level."""
    document = passing()
    part = document["levels"][level]
    (part["overall"] if text == "all" else part["languages"][text]).update(figures)
    return document


def test_the_same_run_has_no_regression() -> None:
    found = compare(passing(), passing())
    assert (found.failures, found.improvements, found.lost, found.notes) == ([], [], (), ())
    assert {change.level for change in found.changes} == {"L1", "L2", "L3", "L3 arm64"}
    assert {change.text for change in found.changes if change.level == "L3"} == {
        "all", "en", "fr", "de", "it", "pt", "es"
    }  # fmt: skip


def test_another_processor_is_held_to_what_it_was() -> None:
    document = passing()
    document["elsewhere"]["arm64"]["overall"]["kld_mean"] *= 1.3
    assert [line.split(": ")[1] for line in compare(document, passing()).failures] == ["L3 arm64 all"]
    del document["elsewhere"]
    assert compare(document, passing()).lost == ("L3 arm64 was not run",)
    assert compare(passing(), document).passed


@pytest.mark.parametrize("text", ["all", "fr"])
@pytest.mark.parametrize("metric", ["kld_mean", "ppl_ratio", "rms_logit_error", "top1_decided"])
def test_a_change_fails_beyond_three_standard_errors(text: str, metric: str) -> None:
    then = passing()["levels"]["L3"]
    before = then["overall"] if text == "all" else then["languages"][text]
    sign = -1 if metric == "top1_decided" else 1
    # Two runs with equal errors: the error of the difference is sqrt(2) of one.
    limit = 3 * 2**0.5 * before[f"{metric}_se"]
    outside = compare(changed("L3", text, **{metric: before[metric] + sign * 1.05 * limit}), passing())
    inside = compare(changed("L3", text, **{metric: before[metric] + sign * 0.95 * limit}), passing())
    better = compare(changed("L3", text, **{metric: before[metric] - sign * 1.05 * limit}), passing())
    assert [line.split(" was ")[0].rsplit(" ", 1)[0] for line in outside.failures] == [
        f"baseline: L3 {text}: {metric}"
    ]
    assert inside.passed
    assert better.passed
    assert len(better.improvements) == 1


def test_the_tail_is_held_over_all_of_the_text_only() -> None:
    assert not compare(changed("L2", "all", kld_p99=0.9), passing()).passed
    assert compare(changed("L2", "fr", kld_p99=0.9), passing()).passed


def windows(seed: int, factor: float, noise: float) -> list[dict[str, Any]]:
    """18 windows whose difficulty differs far more than one export from the next."""
    difficulty, export = random.Random(0), random.Random(seed)
    return [
        {
            "language": language,
            "tokens": 255,
            "kld_mean": 0.036 * difficulty.uniform(0.5, 1.5) * factor * (1 + export.gauss(0, noise)),
            "top1_decided": 0.92,
            "log_ppl_ratio": 0.04,
        }
        for language in ("en", "fr", "de", "it", "pt", "es")
        for _ in range(3)
    ]


def with_windows(found: list[dict[str, Any]]) -> Any:
    document = passing()
    part = document["levels"]["L3"]
    part["by_window"] = found
    part["overall"]["kld_mean"] = sum(window["kld_mean"] for window in found) / len(found)
    return document


def test_pairing_finds_what_independent_errors_hide() -> None:
    then, now = with_windows(windows(1, 1.0, 0.002)), with_windows(windows(2, 1.05, 0.002))
    assert [line.split()[3] for line in compare(now, then).failures] == ["kld_mean"]
    for document in (then, now):
        del document["levels"]["L3"]["by_window"]
    assert compare(now, then).passed


def test_pairing_raises_no_false_alarm_by_noise() -> None:
    then = with_windows(windows(0, 1.0, 0.05))
    assert [
        seed for seed in range(1, 400) if not compare(with_windows(windows(seed, 1.0, 0.05)), then).passed
    ] == []


def test_a_certain_but_tiny_change_is_none() -> None:
    then, now = with_windows(windows(1, 1.0, 0.0)), with_windows(windows(1, 1.009, 0.0))
    assert compare(now, then).passed
    assert not compare(with_windows(windows(1, 1.011, 0.0)), then).passed


def test_windows_of_another_cut_are_not_paired() -> None:
    then, now = with_windows(windows(1, 1.0, 0.0)), with_windows(windows(1, 1.05, 0.0)[1:])
    assert {change.rule for change in compare(now, then).changes} == {"independent", "ratio"}


@pytest.mark.parametrize(
    ("before", "after", "passes"),
    [
        (3e-6, 5.9e-6, True),
        (3e-6, 6.1e-6, False),
        (2e-7, 1.9e-6, True),  # float32 noise
        (2e-7, 2.1e-6, False),
    ],
)
def test_l1_is_held_by_a_ratio(before: float, after: float, passes: bool) -> None:
    then, now = passing(), passing()
    for document, value in ((then, before), (now, after)):
        gate = document["levels"]["L1"]["gates"][1]
        assert gate["name"] == "median_error"
        gate["measured"] = value
    found = compare(now, then)
    assert found.passed is passes
    assert [change.rule for change in found.changes if change.level == "L1"] == ["ratio"]


def test_what_is_no_longer_finite_is_worse() -> None:
    document = passing()
    document["levels"]["L2"]["overall"] |= {"kld_mean": None, "kld_mean_se": None}
    assert any("L2 all: kld_mean" in line for line in compare(document, passing()).failures)
    assert compare(passing(), document).passed
    json.dumps(compare(document, passing()).document().to_json(), allow_nan=False)


def test_what_is_no_longer_run_fails() -> None:
    document = passing()
    del document["levels"]["L1"]
    removed = document["checks"].pop(0)
    assert compare(document, passing()).failures == [
        "baseline: L1 was not run",
        f"baseline: the check '{removed['name']}' was not run",
    ]


@pytest.mark.parametrize(
    ("part", "name", "value", "words"),
    [
        ("subject", "checkpoint", "helium-1-2b", "another checkpoint: helium-1-2b there, helium-tiny in this run"),
        ("subject", "recipe", "onnx-int8", "another recipe: onnx-int8 there, onnx-int4 in this run"),
        ("subject", "target", "xnnpack", "another target"),
        ("text", "sha256", "0" * 64, r"another text \(sha256\): 0{24}\.\.\.0{12} there"),
        ("text", "tokens", 100, r"another text \(tokens\): 100 there, 4092 in this run"),
    ],
)
def test_a_baseline_of_something_else_is_refused(part: str, name: str, value: object, words: str) -> None:
    then = passing()
    then[part][name] = value
    with pytest.raises(InputError, match=f"^base.json: a baseline of {words}") as caught:
        compare(passing(), then)
    assert caught.value.exit_code == 3


def test_a_checkpoint_is_known_by_its_content() -> None:
    then, now = passing(), passing()
    then["subject"] |= {"checkpoint": "elsewhere/helium-tiny", "checkpoint_sha256": "a" * 64}
    now["subject"]["checkpoint_sha256"] = "a" * 64
    assert compare(now, then).passed
    now["subject"]["checkpoint_sha256"] = "b" * 64
    with pytest.raises(
        InputError, match="another checkpoint: elsewhere/helium-tiny there, helium-tiny in this run"
    ):
        compare(now, then)
    then["subject"]["checkpoint"] = "helium-tiny"
    with pytest.raises(InputError, match=r"another checkpoint: a{24}\.\.\.a{12} there, b"):
        compare(now, then)


def test_a_changed_recipe_is_held_to_its_baseline() -> None:
    now = passing()
    now["subject"]["recipe_sha256"] = "c" * 64
    assert compare(now, passing()).notes == ("the recipe was changed",)


def test_another_environment_is_noted() -> None:
    then = passing()
    then["environment"]["onnxruntime"] = "1.27.0"
    assert compare(passing(), then).notes == ("onnxruntime was 1.27.0, is 1.28.0",)


def test_a_baseline_is_written_and_read_back(tmp_path: Path) -> None:
    file = tmp_path / "base.json"
    document = copy.deepcopy(passing())
    write_baseline(document, file)
    write_baseline(document, file)
    stored = read_document(file)
    assert stored["cost"] is None
    assert compare(document, stored).passed
    assert [path.name for path in tmp_path.iterdir()] == ["base.json"]
