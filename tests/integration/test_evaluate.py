"""`helium-edge eval` from the command line: answers, gates, reports, and a store that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import pytest
from helium_edge.cli.main import run
from junitparser import JUnitXml

import helium_edge
from helium_edge import export
from helium_edge.bundle import open_bundle
from helium_edge.errors import BundleError
from helium_edge.evaluate import run as module
from helium_edge.evaluate.encoding import Encoder
from helium_edge.evaluate.metrics import Answer
from helium_edge.evaluate.schema import document_schema
from helium_edge.evaluate.scorer import ChoiceScore, Request, Scorer
from helium_edge.evaluate.subjects import Subject
from helium_edge.runtime.onnx_rows import OnnxRowsRunner, with_free_rows
from helium_edge.targets.loading import open_runner, open_scoring_runner
from tests.helpers.bundles import bundle_recipe
from tests.helpers.chromium import chromium, find_chromium

TINY = Path(helium_edge.__file__).parent / "data" / "helium-tiny"
SHAPES = {"prefill_len": 32, "cache_len": 192}
TASKS = "continuation_en,continuation_de"
LIMIT = 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = bundle_recipe("onnx-fp32", shapes=SHAPES)
    return export(TINY, recipe=recipe, out=tmp_path_factory.mktemp("eval") / "tiny", parity=False).bundle


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def evaluate(capsys: Any, *words: object, code: int = 0) -> Any:
    capsys.readouterr()
    assert run(["eval", *map(str, words), "--threads", "1", "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_command_compares_with_the_original_and_goes_on(
    bundle: Path, store: Path, tmp_path: Path, capsys: Any
) -> None:
    files = [tmp_path / name for name in ("page.html", "results.xml", "table.md")]
    outputs = [str(word) for pair in zip(("--html", "--junit", "--markdown"), files, strict=True) for word in pair]
    common = [bundle, "--tasks", TASKS, "--store", store]
    document = evaluate(capsys, *common, "--limit", LIMIT, *outputs, "--record")["evaluation"]
    jsonschema.validate(document, json.loads(document_schema()))
    assert json.loads(bundle.with_name("tiny.evaluation.json").read_text(encoding="utf-8")) == document
    assert [(row["task"], row["n"], row["questions"]) for row in document["tasks"]] == [
        ("continuation_en", LIMIT, 49),
        ("continuation_de", LIMIT, 44),
    ]
    for row in document["tasks"]:
        assert (row["difference"], row["lost"], row["gained"], row["changed"]) == (0, 0, 0, 0)
        assert abs(row["margin_change"]) < 1e-5
        assert row["mcnemar_p"] == 1
    assert document["gates"] == {"mean": 0.5, "any": 2}  # those of the recipe
    assert document["verdict"] == "undecided"
    work = document["work"]
    assert work["artifact"] == work["original"]
    assert work["artifact"]["requests"] == 2 * 4 * LIMIT
    assert work["artifact"]["fed"] < work["artifact"]["asked"]
    page, results, table = (path.read_text(encoding="utf-8") for path in files)
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert JUnitXml.fromstring(results.encode()).tests == 2 + 1  # and the mean
    assert f"| Continuation (de) | cloze | 0 | {LIMIT} |" in table
    # A second run knows all; a larger sample is more of the same.
    again = evaluate(capsys, *common, "--limit", LIMIT)["evaluation"]
    assert again["tasks"] == document["tasks"]
    assert again["work"]["artifact"]["fed"] == again["work"]["original"]["fed"] == 0
    larger = evaluate(capsys, *common, "--limit", LIMIT + 1, "--no-original")["evaluation"]
    assert larger["work"]["artifact"]["requests"] == 2 * 4
    assert larger["tasks"][0]["difference"] is None


def test_an_artifact_that_lost_ends_with_4_and_says_where(
    bundle: Path, store: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An artifact that takes the least likely choice."""
    true = module.bundle_subject

    class Backwards(Subject):
        def answer(self, items: Any, on_item: Any) -> list[Answer]:
            found = super().answer(items, on_item)
            return [Answer(tuple(ChoiceScore(-each.log_probability, False) for each in a.scores)) for a in found]

    def wrong(*args: Any, **kwargs: Any) -> Subject:
        subject = true(*args, **kwargs)
        return Backwards(**{**vars(subject), "identity": {**subject.identity, "wrong": True}})

    monkeypatch.setattr(module, "bundle_subject", wrong)
    common = [bundle, "--tasks", "continuation_en", "--store", store, "--limit", LIMIT]
    found = evaluate(capsys, *common, "--task-drop", "0.01,0.01", "--junit", tmp_path / "results.xml")
    assert found["evaluation"]["verdict"] == "undecided"
    assert found["evaluation"]["tasks"][0]["too_few"] is True
    assert "too few questions to judge: continuation_en cloze" in found["evaluation"]["notes"]
    monkeypatch.setattr("helium_edge.evaluate.report.ANY_Z", 0.0)
    monkeypatch.setattr("helium_edge.evaluate.paired.Z", 0.0)
    found = evaluate(capsys, *common, "--task-drop", "1,1", "--junit", tmp_path / "results.xml", code=4)
    assert found["error"]["exit_code"] == 4
    assert found["evaluation"]["verdict"] == "failed"
    assert any(
        "continuation_en cloze accuracy_per_character -" in line for line in found["evaluation"]["failures"]
    )
    assert JUnitXml.fromfile(str(tmp_path / "results.xml")).failures == len(found["evaluation"]["failures"])


def test_gates_come_from_the_recipe(bundle: Path, store: Path, tmp_path: Path, capsys: Any) -> None:
    gated = tmp_path / "gated"
    gates = {"gates": {"mean_kld": 0.03, "top1": 0.9, "ppl_ratio": 1.05, "task_drop": {"mean": 99, "any": 99}}}
    export(TINY, recipe=bundle_recipe("onnx-fp32", shapes=SHAPES, **gates), out=gated, parity=False)
    document = evaluate(capsys, gated, "--tasks", "continuation_en", "--limit", LIMIT, "--store", store)[
        "evaluation"
    ]
    assert document["gates"] == {"mean": 99, "any": 99}
    assert document["verdict"] == "passed"
    assert document["work"]["original"]["fed"] == 0  # one original serves all its artifacts
    assert open_bundle(bundle).manifest.quantization.recipe["gates"]["task_drop"] == {"mean": 0.5, "any": 2}


def test_an_interrupted_run_goes_on_where_it_was(
    bundle: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 3)
    true, calls = Subject.answer, []

    def interrupted(self: Subject, items: Any, on_item: Any) -> list[Answer]:
        calls.append(len(items))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return true(self, items, on_item)

    monkeypatch.setattr(Subject, "answer", interrupted)
    common = [bundle, "--tasks", "continuation_en", "--store", tmp_path, "--no-original", "--limit", 10]
    evaluate(capsys, *common, code=130)
    for path in tmp_path.glob("answers/*/*.jsonl"):
        assert len(path.read_bytes().splitlines()) == 3
    torn = sorted(tmp_path.glob("answers/*/*.jsonl"))[0]
    torn.write_bytes(torn.read_bytes()[:-20])  # by a disk; a kill leaves no file at all
    document = evaluate(capsys, *common)["evaluation"]
    assert document["work"]["artifact"]["requests"] == 4 * (10 - 3)
    assert sum(calls[3:]) == 7


# -- the shipped graph, asked for several rows


def test_one_gather_returns_every_row(bundle: Path) -> None:
    opened = open_bundle(bundle)
    shipped, rows = open_runner(opened, threads=1), open_scoring_runner(opened, threads=1)
    assert isinstance(rows, OnnxRowsRunner)
    tokens = list(range(300, 370))
    found = rows.prefill_rows(tokens)
    steps = [shipped.prefill(tokens[:1])[-1], *(shipped.decode(token) for token in tokens[1:])]
    assert np.abs(found - np.stack(steps)).max() < 1e-4
    for length in (1, 5, 32, 33, 70):  # the last row is bit for bit the shipped one
        shipped.reset()
        rows.reset()
        assert np.array_equal(rows.prefill_rows(tokens[:length])[-1:], shipped.prefill(tokens[:length]))
    rows.reset()
    shipped.reset()
    assert np.array_equal(rows.prefill(tokens), shipped.prefill(tokens))


def test_choices_decoded_from_a_shipped_graph_score_alike(bundle: Path) -> None:
    opened = open_bundle(bundle)
    tokens = list(range(300, 330))
    requests = [Request((1, *tokens[:at]), tuple(tokens[at : at + 5])) for at in (3, 9, 20)]
    decoded = Scorer(open_runner(opened, threads=1), "last").score(requests)  # type: ignore[arg-type]
    asked = Scorer(open_scoring_runner(opened, threads=1), "last").score(requests)  # type: ignore[arg-type]
    off = [abs(one.log_probability - other.log_probability) for one, other in zip(decoded, asked, strict=True)]
    assert max(off) < 1e-4


def test_a_graph_of_another_build_is_refused(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(bundle / "decoder.onnx", load_external_data=False)
    gather = next(node for node in model.graph.node if "last_index" in node.input)
    gather.op_type = "GatherElements"
    onnx.save(model, tmp_path / "decoder.onnx")
    with pytest.raises(BundleError, match="last_index goes to GatherElements, not to one Gather"):
        with_free_rows(tmp_path / "decoder.onnx")


@pytest.mark.parametrize("fault", ["left out", "doubled"])
def test_bos_left_out_or_doubled_changes_every_score(bundle: Path, fault: str, monkeypatch: Any) -> None:
    subject = module.bundle_subject(open_bundle(bundle), threads=1)
    right = subject.scorer.score([subject.encoder.request("The sensor", " reads 21 degrees")])
    true = Encoder.encode
    change = (lambda ids: ids[1:]) if fault == "left out" else (lambda ids: [ids[0], *ids])
    monkeypatch.setattr(Encoder, "encode", lambda self, text: change(true(self, text)))
    wrong = subject.scorer.score([subject.encoder.request("The sensor", " reads 21 degrees")])
    assert abs(right[0].log_probability - wrong[0].log_probability) > 0.01


@pytest.mark.full
def test_the_page_is_shown_by_a_browser(bundle: Path, store: Path, tmp_path: Path, capsys: Any) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed")
    page = tmp_path / "page.html"
    evaluate(
        capsys, bundle, "--tasks", TASKS, "--limit", LIMIT, "--store", store, "--task-drop", "1,3", "--html", page
    )
    with chromium(program, tmp_path / "profile") as tab:
        for width in (1200, 390):
            tab.open(page, width=width)
            assert tab.evaluate("document.documentElement.scrollWidth") == width
            assert tab.evaluate("document.querySelectorAll('svg.chart').length") == 1
            assert tab.complaints() == []
            assert tab.requests() == [page.as_uri()]
