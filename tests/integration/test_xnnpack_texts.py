"""Classifiers and encoders on ExecuTorch's XNNPACK agree with transformers on ids, and quantized with torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.helpers.text_models import (
    TEXT_CLASSES,
    export_text_model,
    id_rows,
    largest_error,
    make_text_model,
    reference_outputs,
    text_recipe,
)

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

CLASSES = [f"Helium{suffix}" for suffix in TEXT_CLASSES]


@pytest.mark.parametrize("name", [*CLASSES, "LlamaForSequenceClassification"])
def test_float32_agrees_with_transformers(name: str, tmp_path: Path) -> None:
    folder = make_text_model(tmp_path / "checkpoint", name, seed=6)
    exported = export_text_model(folder, text_recipe("xnnpack-fp32"), tmp_path / "out")
    runner, expected = exported.runner(), reference_outputs(folder)
    for where, ids in id_rows().items():
        assert largest_error(runner.run(ids), expected[where]) <= 1e-4, where
    assert (
        largest_error(runner.run(id_rows()["full"][:7]), exported.torch_text().run(id_rows()["full"][:7])) <= 1e-4
    )


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("recipe", ["xnnpack-int8", "xnnpack-int4"])
def test_quantized_programs_compute_what_torch_does(name: str, recipe: str, tmp_path: Path) -> None:
    """With activations rounded as XNNPACK rounds them, up to those that round the other way."""
    folder = make_text_model(tmp_path / "checkpoint", name, seed=8)
    exported = export_text_model(folder, text_recipe(recipe), tmp_path / "out")
    runner, expected = exported.runner(), exported.torch_text(emulated=True)
    for where, ids in id_rows().items():
        assert largest_error(runner.run(ids), expected.run(ids)) <= 0.05, where
