"""Heads on ExecuTorch's XNNPACK agree with transformers on ids, and quantized with torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.helpers.heads import (
    HEADS,
    export_head,
    head_recipe,
    id_rows,
    largest_error,
    make_head,
    reference_outputs,
)

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

CLASSES = [f"Helium{head}" for head in HEADS]


@pytest.mark.parametrize("name", [*CLASSES, "LlamaForSequenceClassification"])
def test_float32_agrees_with_transformers(name: str, tmp_path: Path) -> None:
    folder = make_head(tmp_path / "checkpoint", name, seed=6)
    exported = export_head(folder, head_recipe("xnnpack-fp32"), tmp_path / "out")
    runner, expected = exported.runner(), reference_outputs(folder)
    for where, ids in id_rows().items():
        assert largest_error(runner.run(ids), expected[where]) <= 1e-4, where
    assert (
        largest_error(runner.run(id_rows()["full"][:7]), exported.torch_head().run(id_rows()["full"][:7])) <= 1e-4
    )


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("recipe", ["xnnpack-int8", "xnnpack-int4"])
def test_quantized_programs_compute_what_torch_does(name: str, recipe: str, tmp_path: Path) -> None:
    """With activations rounded as XNNPACK rounds them, up to those that round the other way."""
    folder = make_head(tmp_path / "checkpoint", name, seed=8)
    exported = export_head(folder, head_recipe(recipe), tmp_path / "out")
    runner, expected = exported.runner(), exported.torch_head(emulated=True)
    for where, ids in id_rows().items():
        assert largest_error(runner.run(ids), expected.run(ids)) <= 0.05, where
