"""`benchmarks/arm64_parity.py`: what it shows, its exit codes, and what it refuses before anything is built."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import arm64
import arm64_parity
from arm64.compare import TOLERANCE, Arm64Report, CallDifference
from helium_edge.errors import MissingToolError, UsageError

Capture = pytest.CaptureFixture[str]


def arm64_report(*errors: float) -> Arm64Report:
    calls = [
        CallDifference("decode" if index else "prefill", 1, error, error, error, same_choice=True)
        for index, error in enumerate(errors)
    ]
    return Arm64Report("cortex-a76", "executorch 1.5.1", 0.049, TOLERANCE, tuple(calls))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the comparison gives, and what it was asked."""
    given: dict[str, Any] = {"arm64": arm64_report(2e-7, 3e-7, 2e-2), "asked": []}

    def check_arm64(bundle: Path, **options: Any) -> Arm64Report:
        options.pop("progress").stage("run on cortex-a76")
        given["asked"].append((bundle, options))
        if isinstance(given["arm64"], Exception):
            raise given["arm64"]
        return given["arm64"]

    monkeypatch.setattr(arm64_parity, "check_arm64", check_arm64)
    return given


def test_it_shows_each_phase_and_the_gates(answers: dict[str, Any], capsys: Capture) -> None:
    assert arm64_parity.main(["tiny", "--unverified", "--cpu", "cortex-a53"]) == 0
    assert answers["asked"] == [(Path("tiny"), {"unverified": True, "tokens": 24, "cpu": "cortex-a53"})]
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert rows[2:4] == [
        ["prefill", "1", "1", "2.0e-07", "2.0e-07", "1"],
        ["decode", "2", "1", "1.0e-02", "2.0e-02", "2"],
    ]
    assert "worst: 0.02, at most 0.049: ok" in out
    assert "median: 3e-07, at most 1e-05: ok" in out
    assert "run on cortex-a76" in err


def test_a_difference_beyond_the_limits_ends_with_4(answers: dict[str, Any], capsys: Capture) -> None:
    answers["arm64"] = arm64_report(2e-7, 1e-3, 0.9)
    assert arm64_parity.main(["tiny"]) == 4
    out, err = capsys.readouterr()
    assert out.count("FAILED") == 2
    assert (
        "error: tiny: on ARM64 (cortex-a76) 1 of 3 calls are off by more than 0.049 (relative rms), by 0.9" in err
    )


@pytest.mark.parametrize("error", [3e-7, 0.9])
def test_the_document_is_the_report(error: float, answers: dict[str, Any], capsys: Capture) -> None:
    answers["arm64"] = arm64_report(2e-7, error)
    assert arm64_parity.main(["tiny", "--json"]) == (0 if error < 1 / 2 else 4)
    assert json.loads(capsys.readouterr().out) == answers["arm64"].to_json()


def test_missing_tools_end_with_5(answers: dict[str, Any], capsys: Capture) -> None:
    answers["arm64"] = MissingToolError("the ARM64 run needs x, which is not installed", hint="apt-get install y")
    assert arm64_parity.main(["tiny"]) == 5
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("error: the ARM64 run needs x, which is not installed\nhint: apt-get install y\n")


def manifest(target: str) -> SimpleNamespace:
    """Of an encoder."""
    model = SimpleNamespace(architecture="HeliumModel")
    return SimpleNamespace(target=SimpleNamespace(name=target), cache=None, model=model)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("coreml", "takes bundles for onnx and xnnpack; this one is for coreml"),
        ("onnx", "takes language models; HeliumModel is none"),
    ],
)
def test_what_it_cannot_run_is_refused_first(target: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arm64, "find_toolchain", lambda: None)
    monkeypatch.setattr(arm64, "fetch_library", lambda _: pytest.fail("it went on"))
    bundle = SimpleNamespace(folder=Path("b"), manifest=manifest(target))
    monkeypatch.setattr(arm64, "open_bundle", lambda *_, **__: bundle)
    with pytest.raises(UsageError, match=message):
        arm64.check_arm64(Path("b"))
