"""`helium-edge report`, and how a document is shown on a terminal."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helium_edge.cli import _parity_view

from helium_edge.parity.baseline import compare_with_baseline
from helium_edge.parity.document import check_document
from tests.unit.cli.conftest import Result
from tests.unit.cli.test_export_command import make_report
from tests.unit.report.documents import failing, over_budget, passing, with_failures

Cli = Callable[..., Result]


def store(folder: Path, document: Any) -> str:
    file = folder / "parity.json"
    file.write_text(json.dumps({"bundle": "tiny", "parity": document}), encoding="utf-8")
    return str(file)


def full() -> Any:
    document = failing()
    document["baseline"] = compare_with_baseline(document, passing(), source="base.json").document().to_json()
    return with_failures(document)


def test_a_document_becomes_files(cli: Cli, tmp_path: Path) -> None:
    names = [str(tmp_path / name) for name in ("a.html", "a.xml", "a.md")]
    document = store(tmp_path, failing())
    code, out, _ = cli("report", document, "--html", names[0], "--junit", names[1], "--markdown", names[2])
    assert code == 0
    assert out.splitlines() == [f"{name}: written" for name in names]
    assert Path(names[0]).read_text(encoding="utf-8").startswith("<!doctype html>")


def test_json_is_one_document(cli: Cli, tmp_path: Path) -> None:
    code, out, _ = cli("report", store(tmp_path, passing()), "--markdown", str(tmp_path / "a.md"), "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["passed"], found["written"]) == (True, [str(tmp_path / "a.md")])
    assert found["parity"] == json.loads(json.dumps(passing()))


def test_without_a_file_the_run_is_shown(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("report", store(tmp_path, passing()))
    assert code == 0
    assert out.splitlines()[0] == "Parity of tiny with the original: passed (onnx-int4, onnxruntime, 4,092 tokens)"
    assert "--html" in err


@pytest.mark.parametrize("name", ["none.json", "."])
def test_what_is_no_document_is_refused(cli: Cli, tmp_path: Path, name: str) -> None:
    code, out, err = cli("report", str(tmp_path / name), "--html", str(tmp_path / "a.html"), "--json")
    assert code == 3
    assert json.loads(out)["error"]["exit_code"] == 3
    assert err.startswith("error: ")
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize("make", [passing, failing, over_budget, full])
def test_a_run_fits_80_columns(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _parity_view.show_parity(make())
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if ": " not in line or line.startswith("L")]
    assert max(map(len, tables)) <= 80


def test_a_run_that_holds_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    _parity_view.show_parity(passing())
    out = capsys.readouterr().out
    assert "FAILED" not in out
    assert len(out.splitlines()) <= 21
    assert "cache: 7 checks hold" in out
    assert "greedy: 2 of 4 samples equal, 1 part at a near tie, 1 at another token" in out
    assert "9% overhead" in out


def test_a_run_that_fails_shows_what(capsys: pytest.CaptureFixture[str]) -> None:
    _parity_view.show_parity(full())
    out = capsys.readouterr().out
    for words in ("L1 graph", "median_error", "prefill equals decode", "GUILTY", "WORSE", "note: L3: evaluated"):
        assert words in out
    assert next(line for line in out.splitlines() if "GUILTY" in line).split()[:2] == ["3", "k_proj"]


def test_a_gate_within_the_noise_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    document = passing()
    document["levels"]["L3"]["gates"][2] |= {"measured": 0.899, "standard_error": 0.004}
    _parity_view.show_parity(document)
    assert "ok, within noise" in capsys.readouterr().out


def test_a_run_of_one_level_without_languages_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    document = passing()
    del document["levels"]["L0"], document["levels"]["L1"], document["levels"]["L2"]
    document |= {"checks": [], "greedy": [], "cost": None, "subject": {}, "text": {}}
    document["levels"]["L3"]["languages"] = {}
    document["levels"]["L3"]["overall"] |= {"nonfinite": 3, "kld_mean": None, "ppl_ratio": None}
    _parity_view.show_parity(document)
    assert "NaN or infinite at 3 of 4,092 positions" in capsys.readouterr().out


# -- parity writes the same files


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let the next `parity` find this mean KLD."""

    def let(mean_kld: float) -> None:
        monkeypatch.setattr("helium_edge.parity.check.check", lambda *_, **__: make_report(mean_kld))

    return let


@pytest.mark.parametrize(("mean_kld", "code"), [(0.02, 0), (0.09, 4)])
def test_parity_writes_its_reports_also_when_it_fails(
    mean_kld: float, code: int, cli: Cli, checked: Callable[[float], None], tmp_path: Path
) -> None:
    checked(mean_kld)
    names = [str(tmp_path / name) for name in ("a.html", "a.xml", "a.md")]
    found = cli("parity", "tiny", "--html", names[0], "--junit", names[1], "--markdown", names[2], "--json")
    assert found[0] == code
    document = json.loads(found[1])["parity"]
    assert document["passed"] is (code == 0)
    assert check_document(document, where="stdout") == document
    assert all(f"written: {name}" in found[2] for name in names)
    assert f'failures="{int(code > 0)}"' in Path(names[1]).read_text(encoding="utf-8").splitlines()[1]


def test_parity_holds_a_run_to_its_baseline(cli: Cli, checked: Callable[[float], None], tmp_path: Path) -> None:
    file = str(tmp_path / "base.json")
    checked(0.02)
    assert cli("parity", "tiny", "--baseline", file, "--update-baseline")[0] == 0
    assert cli("parity", "tiny", "--baseline", file)[0] == 0
    checked(0.03)
    code, out, _ = cli("parity", "tiny", "--baseline", file, "--json")
    assert code == 4
    document = json.loads(out)
    assert document["parity"]["failures"][0].startswith("baseline: L3 all: kld_mean 0.03 was 0.02: worse by 0.01")
    checked(0.01)
    code, out, _ = cli("parity", "tiny", "--baseline", file)
    assert code == 0
    assert "better" in out


def test_a_run_that_fails_becomes_no_baseline(cli: Cli, checked: Callable[[float], None], tmp_path: Path) -> None:
    checked(0.09)
    code, _, err = cli("parity", "tiny", "--baseline", str(tmp_path / "base.json"), "--update-baseline")
    assert code == 4
    assert "not written" in err
    assert list(tmp_path.iterdir()) == []


def test_a_foreign_baseline_ends_with_3_and_the_reports_are_there(
    cli: Cli, checked: Callable[[float], None], tmp_path: Path
) -> None:
    base = tmp_path / "base.json"
    base.write_text(json.dumps(passing()), encoding="utf-8")
    checked(0.02)
    page = tmp_path / "a.xml"
    code, out, err = cli("parity", "tiny", "--baseline", str(base), "--junit", str(page), "--json")
    assert code == json.loads(out)["error"]["exit_code"] == 3
    assert "a baseline of another checkpoint" in err
    assert page.exists()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--update-baseline"], 2, "--update-baseline needs --baseline FILE"),
        (["--baseline", "none.json"], 3, "there is no baseline yet"),
        (["--html", "none/a.html"], 2, "there is no folder none"),
    ],
)
def test_what_cannot_be_done_is_told_before_the_run(
    options: list[str], code: int, words: str, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("helium_edge.parity.check.check", lambda *_, **__: pytest.fail("was run"))
    found = cli("parity", "tiny", *options)
    assert found[0] == code
    assert words in found[2]
