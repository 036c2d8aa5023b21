from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from helium_edge.checkpoint import ReadOptions
from helium_edge.errors import ParityError
from helium_edge.exporting import ExportRequest
from helium_edge.parity import LevelReport, ParityReport
from helium_edge.parity.statistics import Aggregate
from helium_edge.parity.verdict import judge_budget
from helium_edge.progress import Progress
from helium_edge.recipe import Gates, load_recipe, recipe_text
from helium_edge.texts import TextSource
from tests.unit.bundle.bundles import make_manifest

Cli = Callable[..., tuple[int, str, str]]


def make_report(
    mean_kld: float, *, top1: float = 0.95, top1_decided: float = 0.95, ambiguous: int = 0
) -> ParityReport:
    values = {
        "tokens": 381, "nonfinite": 0, "kld_mean": mean_kld, "kld_median": 0.02, "kld_p99": 0.3, "kld_p999": 0.5,
        "kld_max": 0.9, "top1": top1, "ambiguous": ambiguous, "top1_decided": top1_decided, "ppl_reference": 30.0,
        "ppl_candidate": 31.5, "ppl_ratio": 1.05, "max_logit_error": 0.5, "rms_logit_error": 0.1, "snr_db": 20.0,
        "rms_delta_p": 0.02,
    }  # fmt: skip
    errors = {field.name: 0.001 for field in fields(Aggregate) if field.name.endswith("_se")}
    figures = Aggregate(**{**errors, "top1_decided_se": 0.016, **values})  # type: ignore[arg-type]
    gates = judge_budget(Gates(mean_kld=0.06, top1=0.9), figures)
    return ParityReport((LevelReport("L3", figures, {"en": figures, "fr": figures}, gates, windows=2),))


@pytest.fixture
def results() -> int:
    """How many bundles an export makes."""
    return 1


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, results: int) -> list[dict[str, Any]]:
    """What `export_all` was called with."""
    found: list[dict[str, Any]] = []

    def export(request: ExportRequest, progress: Progress) -> list[SimpleNamespace]:
        progress.tell("note: a merge")
        progress.tell("warning: a tensor was ignored")
        progress.stage("quantize", 2, "weights")
        found.append({field.name: getattr(request, field.name) for field in fields(request)})
        report = make_report(0.02) if request.parity else None
        result = SimpleNamespace(
            bundle=Path("/abs") / request.out, manifest=make_manifest(), parity=report, seconds=3.2,
            peak_rss_bytes=700_000_000, peak_anonymous_bytes=500_000_000, peak_mapped_bytes=250_000_000,
            bundle_bytes=5_570_000, notes=("a merge",), warnings=("a tensor was ignored",),
        )  # fmt: skip
        return [result] * results

    monkeypatch.setattr("helium_edge.exporting.export_all", export)
    return found


def test_options_have_their_defaults(cli: Cli, calls: list[dict[str, Any]]) -> None:
    code, out, err = cli("export", "helium-tiny", "--recipe", "onnx-int4", "-o", "tiny")
    assert code == 0
    assert calls == [
        {
            "source": "helium-tiny", "recipe": load_recipe("onnx-int4"), "out": Path("tiny"), "revision": None,
            "force": False, "parity": True, "run": True, "store": None, "calibration": None, "threads": 0,
            "strict": False, "reading": ReadOptions(),
        }
    ]  # fmt: skip
    assert "bundle:  tiny, 5.57 MB in" in out
    assert "at most 700 MB of memory (500 MB own, 250 MB of files)" in " ".join(out.split())
    assert "L3 export" in out
    assert max(map(len, out.splitlines())) <= 80
    # Before the work, and once.
    assert err.splitlines()[:2] == ["note: a merge", "warning: a tensor was ignored"]
    assert (err + out).count("a tensor was ignored") == 1
    assert err.splitlines()[-1].startswith("next: helium-edge generate tiny ")


def test_options_reach_the_pipeline(cli: Cli, calls: list[dict[str, Any]], tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(recipe_text("onnx-int4-portable"), encoding="utf-8")
    code, out, _ = cli(
        "export", "org/name", "--recipe", str(file), "--output", "x", "--revision", "v1", "--force", "--no-parity",
        "--store", "s", "--calibration", "c.txt", "--threads", "2", "--cache-len", "512",
        "--prefill-len", "64", "--target", "onnx", "--strict", "--merge-adapter", "--generation-config", "g.json",
    )  # fmt: skip
    assert code == 0
    (call,) = calls
    recipe = call.pop("recipe")
    assert call == {
        "source": "org/name", "out": Path("x"), "revision": "v1", "force": True, "parity": False, "run": True,
        "store": Path("s"), "calibration": Path("c.txt"), "threads": 2, "strict": True,
        "reading": ReadOptions(merge_adapter=True, generation_config=Path("g.json")),
    }  # fmt: skip
    assert (recipe.shapes.prefill_len, recipe.shapes.cache_len) == (64, 512)
    assert recipe.model_copy(update={"shapes": load_recipe("onnx-int4-portable").shapes}) == load_recipe(
        "onnx-int4-portable"
    )
    assert "not compared with the original" in out


def test_the_old_name_of_no_parity_is_kept(cli: Cli, calls: list[dict[str, Any]]) -> None:
    code, _, err = cli("export", "helium-tiny", "--recipe", "onnx-int4", "-o", "tiny", "--no-verify")
    assert (code, calls[0]["parity"]) == (0, False)
    assert "--no-verify is now --no-parity" in err
    assert "--no-verify" not in cli("export", "--help")[1]


def test_not_run(cli: Cli, calls: list[dict[str, Any]]) -> None:
    code, _, _ = cli("export", "helium-tiny", "--recipe", "onnx-int4", "-o", "tiny", "--no-run")
    assert code == 0
    assert calls[0]["run"] is False


def test_json_document(cli: Cli, calls: list[dict[str, Any]]) -> None:
    code, out, err = cli("export", "helium-tiny", "--recipe", "onnx-int4", "-o", "tiny", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["bundle"] == "/abs/tiny"
    assert document["bundle_bytes"] == 5_570_000
    assert (document["peak_anonymous_bytes"], document["peak_mapped_bytes"]) == (500_000_000, 250_000_000)
    assert document["parity"] == make_report(0.02).to_json()
    assert (document["notes"], document["warnings"]) == (["a merge"], ["a tensor was ignored"])
    assert "quantize:" in err


@pytest.mark.parametrize("results", [2])
def test_several_targets_are_several_bundles(cli: Cli, calls: list[dict[str, Any]]) -> None:
    _, out, err = cli("export", "helium-tiny", "--recipe", "onnx-int4", "-o", "tiny")
    assert out.count("bundle:  tiny/onnx, ") == 2
    assert err.splitlines()[-1].startswith("next: helium-edge generate tiny/onnx ")
    _, out, _ = cli("export", "helium-tiny", "--recipe", "onnx-int4", "-o", "tiny", "--json")
    assert [bundle["target"] for bundle in json.loads(out)["bundles"]] == ["onnx", "onnx"]


def test_without_output_nothing_is_done(cli: Cli, calls: list[dict[str, Any]]) -> None:
    code, _, err = cli("export", "helium-tiny", "--recipe", "onnx-int4")
    assert (code, calls) == (2, [])
    assert err.splitlines()[0] == "error: export needs -o DIR, the bundle to write"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--target", "onx"), "error: no target 'onx'\nhint: did you mean 'onnx'?"),
        (("--prefill-len", "5000"), "error: --prefill-len 5000: Input should be less than or equal to 4096"),
        (("--cache-len", "1"), "error: Invalid value for '--cache-len'"),
        (("--recipe", "onnx-int5"), "error: no recipe named 'onnx-int5'"),
    ],
)
def test_options_that_do_not_fit_end_with_2_before_any_work(
    cli: Cli, calls: list[dict[str, Any]], options: tuple[str, ...], message: str
) -> None:
    code, out, err = cli("export", "helium-tiny", "--recipe", "onnx-int4", "-o", "tiny", *options)
    assert (code, out, calls) == (2, "", [])
    assert err.startswith(message)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> ParityReport:
    """An export, and a comparison, whose result misses a gate."""
    report = make_report(0.07)
    assert not report.passed

    def export(*arguments: Any, **options: Any) -> None:
        raise ParityError("the exported graphs miss the gates", hint="h", report=report)

    monkeypatch.setattr("helium_edge.exporting.export_all", export)
    monkeypatch.setattr("helium_edge.parity.check.check", lambda *_, **__: report)
    return report


def test_a_failed_comparison_ends_with_4_and_the_table_on_stderr(cli: Cli, failing: ParityReport) -> None:
    code, out, err = cli("export", "helium-tiny", "--recipe", "onnx-int4", "-o", "tiny")
    assert (code, out) == (4, "")
    rows = [line.split() for line in err.splitlines()]
    assert ["L3", "mean_kld", "0.07", "0.001", "at", "most", "0.06", "FAILED"] in rows
    assert err.endswith("error: the exported graphs miss the gates\nhint: h\n")


def test_a_gate_that_holds_only_within_the_noise_says_so(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the table would read as `0.8898 at least 0.9: ok`."""
    report = make_report(0.02, top1=0.81, top1_decided=0.889, ambiguous=30)
    assert report.passed
    monkeypatch.setattr("helium_edge.parity.check.check", lambda *_, **__: report)
    code, out, _ = cli("parity", "tiny")
    rows = [line.split() for line in out.splitlines()]
    assert code == 0
    assert ["L3", "top1", "0.889", "0.016", "at", "least", "0.9", "ok,", "within", "noise"] in rows
    assert "near ties: 30 disagreements where the original is undecided" in out


def test_a_failed_comparison_as_json_has_error_and_report(cli: Cli, failing: ParityReport) -> None:
    code, out, _ = cli("export", "helium-tiny", "--recipe", "onnx-int4", "-o", "tiny", "--json")
    document = json.loads(out)
    assert code == document["error"]["exit_code"] == 4
    assert document["parity"] == failing.to_json()


def test_parity_that_fails_shows_the_table_as_its_result(cli: Cli, failing: ParityReport) -> None:
    code, out, err = cli("parity", "tiny")
    assert code == 4
    assert "FAILED" in out
    assert err.splitlines()[0] == "error: tiny: L3 mean_kld 0.07 is above the limit 0.06"
    assert "next:" not in err


def test_parity_that_fails_as_json(cli: Cli, failing: ParityReport) -> None:
    code, out, err = cli("parity", "tiny", "--json")
    document = json.loads(out)
    assert code == document["error"]["exit_code"] == 4
    assert document["parity"] == failing.to_json()
    assert "FAILED" not in err


def test_parity_options_reach_the_pipeline(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    def check(bundle: Path, **options: Any) -> ParityReport:
        options.pop("progress")
        found.append((bundle, options))
        return make_report(0.01)

    monkeypatch.setattr("helium_edge.parity.check.check", check)
    code, out, err = cli("parity", "tiny")
    assert code == 0
    assert out.splitlines()[0] == "Parity with the original: passed (381 tokens)"
    assert [line.split()[0] for line in out.splitlines()[4:8]] == ["text", "en", "fr", "all"]
    assert max(map(len, out.splitlines())) <= 80
    assert err.startswith("next: helium-edge generate tiny ")
    text = TextSource(None, 0)
    defaults = {
        "checkpoint": None,
        "text": text,
        "store": None,
        "layers": False,
        "oracle": None,
        "decoders_only": False,
        "elsewhere": True,
        "threads": 0,
        "static": False,
        "unverified": False,
    }
    assert found.pop() == (Path("tiny"), defaults)
    document = json.loads(
        cli(
            "parity", "tiny", "--checkpoint", "c", "--tokens", "500", "--layers", "--oracle", "optimum",
            "--this-processor",
            "--threads", "1", "--static", "--unverified",
            "--json",
        )[1]
    )  # fmt: skip
    assert document == {"bundle": "tiny", "parity": make_report(0.01).to_json()}
    text = TextSource(None, 500)
    options = {
        "checkpoint": "c",
        "text": text,
        "store": None,
        "layers": True,
        "oracle": "optimum",
        "decoders_only": False,
        "elsewhere": False,
        "threads": 1,
        "static": True,
        "unverified": True,
    }
    assert found.pop() == (Path("tiny"), options)
