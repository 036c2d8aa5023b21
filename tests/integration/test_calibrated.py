"""Calibrated weights on the whole road: the same integers for every target, parity without a text, faults."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helium_edge.cli.main import run

import helium_edge
from helium_edge import export
from helium_edge.bundle import Bundle, open_bundle
from helium_edge.checkpoint import open_checkpoint
from helium_edge.errors import BundleError, UsageError
from helium_edge.exporting import ExportRequest, export_all
from helium_edge.model.weights import layer_name, matrix_names, vector_names
from helium_edge.parity import ParityReport
from helium_edge.parity.bundle_store import BundleStore, compare_digests
from helium_edge.parity.report import LevelReport, StoreReport
from helium_edge.parity.store_check import readback
from helium_edge.parity.text_report import TextReport
from helium_edge.quant import QuantizedWeight
from helium_edge.quant.activations import SHIPPED_TO, this_processor
from helium_edge.quant.calibrated import CalibratedStore
from helium_edge.quant.calibrated.walk import Walk
from helium_edge.recipe import Calibration, Recipe
from tests.faults.checking import run_check
from tests.helpers.added_tokens import token
from tests.helpers.bundles import MODEL, bundle_recipe
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.faults import plant
from tests.helpers.text_models import make_text_model, text_recipe

SMALL = {"num_hidden_layers": 2, "vocab_size": 320, "max_position_embeddings": 64}
OPTIONS = Calibration(tokens=1024, rounds=1)
needs_all = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("executorch", "coremltools")),
    reason="executorch or coremltools are not installed",
)


def calibrated(recipe: Recipe, **changes: Any) -> Recipe:
    """The recipe with weights that are calibrated, and no gates for quality, which are for trained weights."""
    quantization = recipe.quantization.model_copy(update={"method": "calibrated", "calibration": OPTIONS})
    gates = recipe.gates.model_copy(update=dict.fromkeys(("mean_kld", "top1", "ppl_ratio", "hidden_cosine")))
    return recipe.model_copy(update={"quantization": quantization, "gates": gates, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint, store and bundles of this module."""
    root = tmp_path_factory.mktemp("calibrated")
    make_checkpoint(root / "c", **MODEL | SMALL)
    return root


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Path:
    """A bundle for ONNX Runtime, and the store that it came from beside it."""
    recipe = calibrated(bundle_recipe("onnx-int4"))
    return export(folder / "c", recipe=recipe, out=folder / "onnx", parity=False, store=folder / "s").bundle


@pytest.fixture
def no_calibration(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No text is read and none is run."""

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("something was calibrated")

    with monkeypatch.context() as patch:
        patch.setattr(Walk, "run", fail)
        patch.setattr(CalibratedStore, "prepare", fail)
        patch.setattr("helium_edge.texts.calibration_windows", fail)
        yield


def level_0(report: ParityReport) -> StoreReport:
    found = report.level("L0")
    assert isinstance(found, StoreReport)
    return found


@pytest.mark.usefixtures("no_calibration")
def test_parity_needs_neither_the_text_nor_a_second_calibration(folder: Path, bundle: Path) -> None:
    report = run_check(bundle, folder / "c")
    assert report.failures == []
    assert [level.level for level in report.levels] == ["L0", "L1", "L2", "L3"]
    here, there = report.level("L3"), report.elsewhere
    assert [level.processor for level in there] == [kind for kind in SHIPPED_TO if kind != this_processor()]
    assert isinstance(here, LevelReport)
    assert there[0].overall.tokens == here.overall.tokens
    assert 0 < abs(there[0].overall.kld_mean - here.overall.kld_mean) < 0.1
    assert level_0(report).tensors == len(matrix_names(config(folder))) + len(vector_names(config(folder)))


def config(folder: Path) -> Any:
    return open_checkpoint(str(folder / "c")).config


DOWN, OUT = layer_name(1, "mlp.down_proj.weight"), layer_name(1, "self_attn.o_proj.weight")
PLANTED = {
    "swapped nibbles": (OUT, "nibbles swapped"),
    "transposed scales": (DOWN, "scales transposed"),
    "scale off": (OUT, "codes or scales are not those that were exported"),
    "gain off": (layer_name(1, "post_attention_layernorm.weight"), "not the values that were exported"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_weights_that_were_packed_wrong_are_named(fault: str, bundle: Path, tmp_path: Path) -> None:
    wrong = open_bundle(plant(bundle, fault, tmp_path / "b"), unverified=True)
    name, diagnosis = PLANTED[fault]
    (found,) = compare_digests(readback(wrong), digests(wrong))
    assert (found.name, found.layer, found.kind) == (name, 1, "digest")
    assert str(found) == f"{name}: {diagnosis}"


@pytest.mark.usefixtures("no_calibration")
def test_they_turn_l0_red_and_leave_l1_which_asks_about_the_graph(
    folder: Path, bundle: Path, tmp_path: Path
) -> None:
    report = run_check(plant(bundle, "swapped nibbles", tmp_path / "b"), folder / "c")
    assert [found.tensor for found in level_0(report).differences] == [OUT]
    assert {level.level for level in report.levels if level.level in ("L0", "L1") and not level.passed} == {"L0"}


def test_two_matrices_that_changed_places_are_named(bundle: Path, tmp_path: Path) -> None:
    wrong = open_bundle(plant(bundle, "gate and up swapped", tmp_path / "b"), unverified=True)
    gate, up = layer_name(1, "mlp.gate_proj.weight"), layer_name(1, "mlp.up_proj.weight")
    found = compare_digests(readback(wrong), digests(wrong))
    assert {each.name: each.diagnosis for each in found} == {
        gate: f"these are the numbers of {up}", up: f"these are the numbers of {gate}",
    }  # fmt: skip


def digests(bundle: Bundle) -> dict[str, str]:
    calibration = bundle.manifest.quantization.calibration
    assert calibration is not None
    return calibration.digests


@needs_all
def test_every_target_carries_the_same_integers_of_one_calibration(
    folder: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX, `.pte` for XNNPACK and CoreML, from one store that the first of them filled."""
    walks, real = [], Walk.run

    def run_once(walk: Walk, *arguments: Any) -> None:
        walks.append(walk)
        real(walk, *arguments)

    monkeypatch.setattr(Walk, "run", run_once)
    base = bundle_recipe("onnx-int4").model_dump(mode="json")
    base["targets"] = {"onnx": {}, "xnnpack": {}, "coreml": {}}
    recipe = calibrated(Recipe.model_validate_json(json.dumps(base)))
    request = ExportRequest(str(folder / "c"), recipe, folder / "all", parity=False, store=folder / "all.store")
    results = export_all(request)
    assert len(walks) == 1
    bundles = [open_bundle(result.bundle) for result in results]
    assert len({each.manifest.quantization.fingerprint for each in bundles}) == 1
    assert bundles[0].manifest.quantization.fingerprint == open_bundle(bundle).manifest.quantization.fingerprint
    store = CalibratedStore(
        open_checkpoint(str(folder / "c")), recipe.quantization, folder / "s", texts_of(folder, recipe)
    )
    artifacts = [readback(each) for each in bundles]
    for name in store.names:
        expected = store.get(name)
        assert isinstance(expected, QuantizedWeight)
        for artifact in artifacts:
            found = artifact.get(name)
            assert isinstance(found, QuantizedWeight)
            assert found.scheme == expected.scheme
            assert torch.equal(found.codes, expected.codes), (name, artifact)
            assert torch.equal(found.scales, expected.scales.to(artifact.real).float())
    for each, artifact in zip(bundles, artifacts, strict=True):
        assert compare_digests(artifact, digests(each)) == []


def texts_of(folder: Path, recipe: Recipe) -> list[tuple[int, ...]]:
    from helium_edge.runtime.tokenizer import Tokenizer
    from helium_edge.texts import calibration_windows

    tokenizer = Tokenizer(folder / "c" / "tokenizer.json")
    assert recipe.quantization.calibration is not None
    windows = calibration_windows(tokenizer, window_len=64, tokens=recipe.quantization.calibration.tokens)
    return [window.tokens for window in windows]


def test_the_same_export_is_the_same_bytes(folder: Path, bundle: Path, tmp_path: Path) -> None:
    again = export(
        folder / "c", recipe=calibrated(bundle_recipe("onnx-int4")), out=tmp_path / "again", parity=False
    )
    names = sorted(path.name for path in bundle.iterdir())
    assert names == sorted(path.name for path in again.bundle.iterdir())
    assert all((bundle / name).read_bytes() == (again.bundle / name).read_bytes() for name in names)
    assert not list(tmp_path.glob(".*"))  # no store is left


def test_a_bundle_tells_what_it_was_calibrated_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "mine.txt"
    text.write_text("A kettle, a cup and a spoon stand on the table near the window. " * 40, encoding="utf-8")
    recipe = calibrated(bundle_recipe("onnx-int4-kv8"), kv_cache="int8")
    result = export(folder / "c", recipe=recipe, out=tmp_path / "b", parity=False, calibration=text)
    found = result.manifest.quantization.calibration
    assert found is not None
    assert (found.text, found.rounds, found.damping, found.folds) == ("mine.txt", 1, 0.1, True)
    assert result.manifest.cache is not None
    assert result.manifest.cache.scales is not None
    assert result.manifest.cache.scales.text == "mine.txt"
    capsys.readouterr()
    assert run(["inspect", str(tmp_path / "b")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"calibrated: {found.tokens:,} tokens (mine.txt; sha256 {found.text_sha256[:12]})" in shown
    card = " ".join((tmp_path / "b" / "README.md").read_text(encoding="utf-8").split())
    assert f"calibrated on {found.tokens} tokens of text (mine.txt)" in card
    short = dataclasses.replace(result).warnings
    assert any("fewer than 2 for each of the 192 channels" in line for line in short) == (found.tokens < 2 * 192)


def test_a_short_text_is_a_warning(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("One sentence that is hardly longer than sixteen tokens, and then no more of it at all.")
    recipe = calibrated(bundle_recipe("onnx-int4"))
    result = export(folder / "c", recipe=recipe, out=tmp_path / "b", parity=False, run=False, calibration=text)
    (warning,) = result.warnings
    assert warning.startswith("weights are calibrated on ")
    assert "fewer than 2 for each of the 192 channels of the widest input" in warning


def test_texts_that_nothing_is_calibrated_on_are_refused(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "t.txt"
    text.write_text("word " * 100)
    with pytest.raises(UsageError, match="nothing of this export is calibrated") as caught:
        export(folder / "c", recipe=bundle_recipe("onnx-int4"), out=tmp_path / "b", calibration=text)
    assert "method: calibrated" in str(caught.value.hint)


def test_a_fast_export_calibrates_nothing(folder: Path, tmp_path: Path) -> None:
    recipe = calibrated(bundle_recipe("onnx-int4"))
    result = export(folder / "c", recipe=recipe, out=tmp_path / "b", parity=False, run=False, fast=True)
    section = result.manifest.quantization
    assert section.calibration is None
    plain = section.to_recipe()
    assert (plain.quantization.method, plain.quantization.rules) == ("mse", recipe.quantization.rules)
    same = export(folder / "c", recipe=plain, out=tmp_path / "s", parity=False, run=False)
    assert section == same.manifest.quantization


def test_a_text_with_a_token_that_has_no_row_is_refused(tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "c", **MODEL | SMALL)
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["added_tokens"].append({"id": 320, **token("<extra>")})
    (source / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    text = tmp_path / "t.txt"
    text.write_text("A kettle stands near the window. <extra> It is empty, and so is the cup beside it.")
    with pytest.raises(UsageError, match="text becomes token 320, and the model has 320 rows") as caught:
        export(source, recipe=calibrated(bundle_recipe("onnx-int4")), out=tmp_path / "b", calibration=text)
    assert "--calibration FILE" in str(caught.value.hint)


@pytest.mark.parametrize("target", ["onnx", "xnnpack", "coreml"])
@pytest.mark.parametrize("architecture", ["HeliumForSequenceClassification", "HeliumModel"])
def test_classifiers_and_encoders_are_calibrated_and_read_back(
    architecture: str, target: str, tmp_path: Path
) -> None:
    for package in {"onnx": (), "xnnpack": ("executorch",), "coreml": ("coremltools",)}[target]:
        pytest.importorskip(package)
    source = make_text_model(tmp_path / "c", architecture, std=0.1, vocab_size=320, num_hidden_layers=1)
    recipe = calibrated(text_recipe(f"{target}-int4"))
    result = export(source, recipe=recipe, out=tmp_path / "b", parity=False)
    opened = open_bundle(result.bundle)
    artifact = readback(opened)
    assert set(digests(opened)) == {*artifact.names, *artifact.vectors}
    assert compare_digests(artifact, digests(opened)) == []
    shape = artifact.config
    assert BundleStore(opened, open_checkpoint(str(source)).config, recipe).names == matrix_names(shape)


def test_a_classifier_with_a_wrong_weight_is_no_bundle(tmp_path: Path) -> None:
    """Its report has no level L0: what that would say is an error."""
    source = make_text_model(tmp_path / "c", "HeliumForSequenceClassification", std=0.1, vocab_size=320)
    recipe = text_recipe("onnx-int4")
    recipe = calibrated(recipe, shapes=recipe.shapes.model_copy(update={"prefill_len": 32, "cache_len": 33}))
    result = export(source, recipe=recipe, out=tmp_path / "b", parity=False)
    report = helium_edge.check(result.bundle, checkpoint=str(source), tokens=200)
    assert isinstance(report, TextReport)
    assert report.graph is not None
    assert report.passed
    path = result.bundle / "helium-edge.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["quantization"]["calibration"]["digests"]["model.norm.weight"] = "0" * 64
    path.write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match=r"1 weights are not those that were exported: model\.norm\.weight"):
        helium_edge.check(result.bundle, checkpoint=str(source), unverified=True)


def test_a_bundle_that_lost_its_digests_is_not_taken_for_another(
    folder: Path, bundle: Path, tmp_path: Path
) -> None:
    copy = plant(bundle, "gain off", tmp_path / "b")
    manifest = json.loads((copy / "helium-edge.json").read_text(encoding="utf-8"))
    manifest["quantization"]["calibration"] = None
    (copy / "helium-edge.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(BundleError, match="says nothing of its calibration"):
        run_check(copy, folder / "c")
