"""Classifiers and encoders on ONNX Runtime agree with transformers, wherever padding is, or with torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helium_edge.targets.onnx.builder import GraphBuilder
from tests.helpers.text_models import (
    TEXT_CLASSES,
    export_text_model,
    id_rows,
    largest_error,
    make_text_model,
    reference_outputs,
    text_recipe,
)

CLASSES = [f"{family}{suffix}" for family in ("Helium", "Llama") for suffix in TEXT_CLASSES]


@pytest.mark.parametrize("name", CLASSES)
def test_float32_agrees_with_transformers(name: str, tmp_path: Path) -> None:
    folder = make_text_model(tmp_path / "checkpoint", name, seed=6, spelling="5.x")
    expected = reference_outputs(folder)
    for dialect in ("contrib", "portable"):
        exported = export_text_model(
            folder, text_recipe("onnx-fp32", options={"dialect": dialect}), tmp_path / dialect
        )
        runner, ours = exported.runner(), exported.torch_text()
        for where, ids in id_rows().items():
            assert largest_error(runner.run(ids), expected[where]) <= 1e-4, where
            assert largest_error(ours.run(ids), expected[where]) <= 1e-4, where
        # A short text is padded by the runner, and that changes nothing.
        text = id_rows()["full"][:7]
        assert largest_error(runner.run(text), ours.run(text)) <= 1e-4
        sizes = {path.name: path.stat().st_size for path in exported.folder.iterdir()}
        assert sizes.keys() == exported.planned_bytes.keys() == {"classifier.onnx", "weights.bin"}


def test_biases_ties_and_other_activations(tmp_path: Path) -> None:
    """A tied embedding has no say in a classifier, and every bias has."""
    folder = make_text_model(
        tmp_path / "checkpoint", "LlamaForTokenClassification", seed=7, attention_bias=True, mlp_bias=True,
        tie_word_embeddings=True, hidden_act="gelu", num_key_value_heads=1,
    )  # fmt: skip
    exported = export_text_model(folder, text_recipe("onnx-fp32"), tmp_path / "out")
    runner, expected = exported.runner(), reference_outputs(folder)
    for where, ids in id_rows().items():
        assert largest_error(runner.run(ids), expected[where]) <= 1e-4, where


def test_another_position_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last token of the input, padding or not, is not what transformers takes."""

    def last(b: GraphBuilder, _: object) -> object:
        return b.ints(-1)

    monkeypatch.setattr("helium_edge.targets.onnx.decoder.last_token", last)
    folder = make_text_model(tmp_path / "checkpoint", "HeliumForSequenceClassification", seed=6)
    runner = export_text_model(folder, text_recipe("onnx-fp32"), tmp_path / "out").runner()
    expected = reference_outputs(folder)
    wrong = {where for where, ids in id_rows().items() if largest_error(runner.run(ids), expected[where]) > 0.1}
    assert wrong == {"right", "inside", "first alone"}  # of padding alone, all positions are alike


@pytest.mark.parametrize("name", CLASSES[:3])
@pytest.mark.parametrize("recipe", ["onnx-int8", "onnx-int4"])
def test_quantized_graphs_compute_what_torch_does(name: str, recipe: str, tmp_path: Path) -> None:
    """With float32 activations, to rounding; with rounded ones, up to those that round the other way.

    Which activations lie between two codes is the processor's: kernels sum in another order on each. A row with
    one that rounds the other way is off by what a rounding is; most rows have none, and agree to noise.
    """
    folder = make_text_model(tmp_path / "checkpoint", name, seed=8)
    plain = {"accuracy_level": 1, "head_accuracy_level": 1}
    exact = export_text_model(folder, text_recipe(recipe, options=plain), tmp_path / "exact")
    fast = export_text_model(folder, text_recipe(recipe), tmp_path / "fast")
    assert exact.store.fingerprint() == fast.store.fingerprint()
    rows: list[float] = []
    for where, ids in id_rows().items():
        assert largest_error(exact.runner().run(ids), exact.torch_text().run(ids)) <= 1e-4, where
        found, expected = fast.runner().run(ids), fast.torch_text(emulated=True).run(ids)
        assert largest_error(found, expected) <= 0.1, where
        pairs = zip(np.atleast_2d(found), np.atleast_2d(expected), strict=True)
        rows += [largest_error(one, other) for one, other in pairs]
    assert np.median(rows) <= 1e-4
