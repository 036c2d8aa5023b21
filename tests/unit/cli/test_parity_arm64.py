from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helium_edge.arm64.compare import TOLERANCE, Arm64Report, CallDifference
from helium_edge.errors import MissingToolError
from tests.unit.cli.test_export_command import make_report

Cli = Callable[..., tuple[int, str, str]]


def arm64_report(*errors: float) -> Arm64Report:
    calls = [
        CallDifference("decode" if index else "prefill", 1, error, error, error, same_choice=True)
        for index, error in enumerate(errors)
    ]
    return Arm64Report("cortex-a76", "executorch 1.5.1", 0.049, TOLERANCE, tuple(calls))


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the two comparisons give, and what they were asked."""
    given: dict[str, Any] = {"arm64": arm64_report(2e-7, 3e-7, 2e-2), "parity": make_report(0.02), "asked": []}

    def check_arm64(bundle: Path, **options: Any) -> Arm64Report:
        options.pop("on_stage")("run on cortex-a76")
        given["asked"].append((bundle, options))
        if isinstance(given["arm64"], Exception):
            raise given["arm64"]
        return given["arm64"]

    monkeypatch.setattr("helium_edge.arm64.check_arm64", check_arm64)
    monkeypatch.setattr("helium_edge.parity.check.check", lambda *_, **__: given["parity"])
    return given


def test_arm64_is_off_by_default(cli: Cli, answers: dict[str, Any]) -> None:
    code, out, _ = cli("parity", "tiny")
    assert (code, answers["asked"]) == (0, [])
    assert "ARM64" not in out


def test_arm64_is_shown_after_the_parity(cli: Cli, answers: dict[str, Any]) -> None:
    code, out, err = cli("parity", "tiny", "--arm64", "--unverified")
    assert code == 0
    assert answers["asked"] == [(Path("tiny"), {"unverified": True})]
    first, second = out.split("\n\nARM64 (cortex-a76, executorch 1.5.1) against this machine\n")
    assert first.startswith("Parity with the original")
    rows = [line.split() for line in second.splitlines()]
    assert rows[1:3] == [["prefill", "1", "1", "2e-07", "2e-07", "1"], ["decode", "2", "1", "0.01", "0.02", "2"]]
    assert ["worst", "0.02", "at", "most", "0.049", "ok"] in rows
    assert ["median", "3e-07", "at", "most", "1e-05", "ok"] in rows
    assert max(map(len, out.splitlines())) <= 80
    assert "run on cortex-a76" in err


def test_arm64_that_fails_ends_with_4(cli: Cli, answers: dict[str, Any]) -> None:
    answers["arm64"] = arm64_report(2e-7, 1e-3, 0.9)
    code, out, err = cli("parity", "tiny", "--arm64")
    assert code == 4
    assert sum(line.endswith("FAILED") for line in out.splitlines()) == 2
    assert err.splitlines()[-2].startswith(
        "error: tiny: on ARM64 (cortex-a76) 1 of 3 calls are off by more than 0.049 (relative rms), by 0.9 first; "
    )


def test_both_failures_are_told(cli: Cli, answers: dict[str, Any]) -> None:
    answers |= {"arm64": arm64_report(0.9), "parity": make_report(0.07)}
    code, _, err = cli("parity", "tiny", "--arm64")
    assert code == 4
    assert "mean_kld 0.07 is above the limit 0.06; on ARM64" in err


@pytest.mark.parametrize("error", [3e-7, 0.9])
def test_the_document_holds_both(error: float, cli: Cli, answers: dict[str, Any]) -> None:
    answers["arm64"] = arm64_report(2e-7, error)
    code, out, _ = cli("parity", "tiny", "--arm64", "--json")
    document = json.loads(out)
    failures = answers["arm64"].failures
    assert document["parity"] == {
        **make_report(0.02).to_json(),
        "arm64": answers["arm64"].to_json(),
        "failures": failures,
        "passed": not failures,
    }
    assert code == (0 if error < 1 / 2 else 4) == document.get("error", {}).get("exit_code", 0)


def test_missing_tools_end_with_5(cli: Cli, answers: dict[str, Any]) -> None:
    answers["arm64"] = MissingToolError("the ARM64 run needs x, which is not installed", hint="apt-get install y")
    code, out, err = cli("parity", "tiny", "--arm64")
    assert (code, out) == (5, "")
    assert err.endswith("error: the ARM64 run needs x, which is not installed\nhint: apt-get install y\n")
