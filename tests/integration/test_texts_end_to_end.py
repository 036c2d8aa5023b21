"""A classifier from its checkpoint to labels on the screen, by the commands that a user types."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helium_edge.cli.main import run

from helium_edge.bundle import open_bundle, verify_bundle
from tests.helpers.text_models import make_text_model, tiny_text_model

Cli = Callable[..., tuple[int, str, str]]

FRENCH = "Le capteur mesure la température de la pièce et envoie les données"


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("texts")


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Path:
    """helium-tiny as a classifier of languages."""
    return tiny_text_model(root / "languages", "HeliumForSequenceClassification")


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, root: Path) -> Path:
    out = root / "bundle"
    assert run(["export", str(checkpoint), "--recipe", "onnx-int4", "--prefill-len", "48", "-o", str(out)]) == 0
    return out


def test_the_bundle_says_what_it_is(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert verify_bundle(bundle)
    assert manifest.output is not None
    assert (manifest.output.kind, manifest.output.labels) == (
        "sequence_classification", ("en", "fr", "de", "it", "pt", "es"),
    )  # fmt: skip
    assert manifest.cache is None
    assert manifest.golden is None
    (graph,) = manifest.graphs
    assert (graph.file, graph.phase, graph.tokens, graph.cache_len) == ("classifier.onnx", "classify", 48, None)
    assert [(entry.name, entry.shape) for entry in graph.outputs] == [("logits", (1, 6))]
    assert manifest.quantization.summary.keys() == {"int8", "int4-g32"}
    assert manifest.parity is not None
    assert manifest.parity["passed"] is True
    assert manifest.parity["levels"] == ["L1", "L3"]
    assert float(str(manifest.parity["label_agreement_decided"])) >= 0.9
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-classification" in card
    assert "helium-edge classify ." in card


def test_labels_with_scores(bundle: Path, cli: Cli) -> None:
    code, out, _ = cli("classify", bundle, FRENCH, "--json")
    assert code == 0
    labels = json.loads(out)["labels"]
    assert labels[0]["label"] == "fr"
    assert sum(row["score"] for row in labels) == pytest.approx(1.0, abs=1e-5)
    assert [row["logit"] for row in labels] == sorted((row["logit"] for row in labels), reverse=True)
    code, out, err = cli("classify", bundle, FRENCH, "--top", "2")
    assert (code, out.splitlines()[0].split(), out.splitlines()[1].split()[0]) == (0, ["label", "score"], "fr")
    assert len(out.splitlines()) == 3
    assert "next: helium-edge parity" in err


def test_parity_and_inspect(bundle: Path, checkpoint: Path, cli: Cli) -> None:
    code, out, _ = cli("parity", bundle, "--checkpoint", checkpoint, "--tokens", "600", "--json")
    assert code == 0
    parity = json.loads(out)["parity"]
    assert (parity["head"], parity["passed"]) == ("sequence_classification", True)
    assert parity["label_agreement_decided"] >= 0.9
    assert parity["texts"] == 18
    assert [gate["name"] for gate in parity["L1"]["gates"]] == ["nonfinite", "median_error", "worst_error"]
    assert all(gate["passed"] for gate in parity["L1"]["gates"])
    code, out, _ = cli("inspect", bundle)
    assert code == 0
    assert "sequence classification: en, fr, de, it, pt, es" in out
    assert "Graph classifier.onnx: classify, 48 tokens a call" in out


def test_what_a_classifier_cannot_do(bundle: Path, root: Path, cli: Cli) -> None:
    code, _, err = cli("generate", bundle, "Edge AI")
    assert code == 3
    assert "HeliumForSequenceClassification generates no text" in err
    assert "helium-edge classify" in err
    code, _, err = cli("classify", bundle, "word " * 60)
    assert code == 2
    assert "the graph takes 48" in err


@pytest.mark.parametrize(
    "options",
    [("--html", "page.html"), ("--junit", "t.xml"), ("--baseline", "b.json", "--update-baseline"), ("--layers",)],
)
def test_files_of_decoders_are_refused_before_anything_is_run(
    options: tuple[str, ...], bundle: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("helium_edge.parity.check.check_texts", lambda *_, **__: pytest.fail("it was run"))
    monkeypatch.chdir(tmp_path)
    code, _, err = cli("parity", bundle, "--checkpoint", "not needed yet", *options)
    assert code == 2
    assert "HeliumForSequenceClassification is no language model" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "score"),
    [
        ({"problem_type": "multi_label_classification"}, lambda logit: 1 / (1 + math.exp(-logit))),
        ({"problem_type": "regression", "id2label": {"0": "stars"}}, lambda logit: logit),
    ],
    ids=["several labels", "regression"],
)
def test_scores_are_as_the_problem_says(
    changes: dict[str, Any], score: Callable[[float], float], tmp_path: Path, cli: Cli
) -> None:
    folder = make_text_model(tmp_path / "model", "HeliumForSequenceClassification", seed=6, **changes)
    options = ("--recipe", "onnx-fp32", "--prefill-len", "16", "--no-parity")
    assert cli("export", folder, *options, "-o", tmp_path / "b")[0] == 0
    code, out, _ = cli("classify", tmp_path / "b", "on air", "--json")
    assert code == 0
    rows = json.loads(out)["labels"]
    assert len(rows) == (1 if "id2label" in changes else 3)
    for row in rows:
        assert row["score"] == pytest.approx(score(row["logit"]), rel=1e-5)


def test_hidden_states_and_token_labels(root: Path, cli: Cli) -> None:
    """Random weights: `--no-parity`, because quantization changes what they say."""
    tokens = make_text_model(root / "tokens", "LlamaForTokenClassification", seed=6)
    options = ("--recipe", "onnx-int8", "--prefill-len", "16", "--no-parity")
    assert cli("export", tokens, *options, "-o", root / "t")[0] == 0
    code, out, _ = cli("classify", root / "t", "on air", "--json")
    assert code == 0
    rows = json.loads(out)["tokens"]
    assert len(rows) == len(json.loads(out)["ids"]) > 1
    assert {label["label"] for row in rows for label in row["labels"]} == {"calm", "warm", "hot"}
    code, out, _ = cli("classify", root / "t", "on air")
    assert (code, out.splitlines()[0].split()) == (0, ["token", "label", "score"])

    model = make_text_model(root / "model", "HeliumModel", seed=6)
    code, out, _ = cli("export", model, "--recipe", "onnx-fp32", "-o", root / "m", "--prefill-len", "16", "--json")
    assert code == 0
    assert json.loads(out)["parity"]["max_logit_error"] < 1e-4
    code, _, err = cli("classify", root / "m", "on air")
    assert code == 2
    assert "has no labels" in err


def test_a_classifier_without_padding_is_refused(root: Path, cli: Cli) -> None:
    folder = make_text_model(root / "nopad", "LlamaForSequenceClassification", pad_token_id=None)
    code, _, err = cli("export", folder, "--recipe", "onnx-int8", "-o", root / "none")
    assert code == 3
    assert "pad_token_id" in err
    assert not (root / "none").exists()


def test_a_coreml_bundle(root: Path, cli: Cli) -> None:
    """Published, verified and classified by interpreting its program, which every report says."""
    pytest.importorskip("coremltools")
    tokens = make_text_model(root / "coreml tokens", "HeliumForTokenClassification", seed=6)
    options = ("--recipe", "coreml-fp16", "--prefill-len", "16", "--json")
    code, out, _ = cli("export", tokens, *options, "-o", root / "c")
    assert code == 0
    assert "Apple's kernels were not run" in json.loads(out)["parity"]["caveat"]
    (graph,) = open_bundle(root / "c").manifest.graphs
    assert (graph.file, graph.method, graph.phase) == ("classifier.pte", "classify", "classify")
    assert verify_bundle(root / "c")
    code, out, _ = cli("classify", root / "c", "on air", "--json")
    assert (code, len(json.loads(out)["tokens"]) > 1) == (0, True)
