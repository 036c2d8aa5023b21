"""CoreML classifiers and encoders, read back from a `.pte` and interpreted, compute what torch does."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import pytest

if importlib.util.find_spec("coremltools") is None:
    pytest.skip("coremltools is not installed", allow_module_level=True)

from helium_edge.errors import BundleError
from helium_edge.runtime.coreml_program import read_coreml, stored_weights
from helium_edge.runtime.coreml_text import CoremlTextRunner
from helium_edge.runtime.quiet import quiet
from tests.helpers.coreml import rms_error
from tests.helpers.text_models import (
    TEXT_CLASSES,
    TextExport,
    export_text_model,
    id_rows,
    make_text_model,
    text_recipe,
)

with quiet():
    from helium_edge.mlpackage.operators import slice_axis

TOLERANCE = 5e-3
"""rms(difference) / rms(expected) over all rows, at the checkpoints' std of 0.1: both as for the decoder. The
three logits of a text alone can all be small, and their error then is not."""


def assert_agrees(exported: TextExport) -> None:
    runner, expected = exported.runner(), exported.torch_text()
    texts = [*id_rows().values(), id_rows()["full"][:7]]  # the last one is padded by the runners
    found, wanted = ([np.atleast_2d(each.run(ids)) for ids in texts] for each in (runner, expected))
    assert rms_error(np.concatenate(found), np.concatenate(wanted)) <= TOLERANCE


# The whole matrix is in test_text_levels.py.
@pytest.mark.parametrize(
    ("name", "recipe"), list(zip(TEXT_CLASSES, ["coreml-fp16", "coreml-int8", "coreml-int4"], strict=True))
)
def test_agrees_with_torch(name: str, recipe: str, tmp_path: Path) -> None:
    folder = make_text_model(tmp_path / "checkpoint", f"Helium{name}", seed=8, std=0.1)
    exported = export_text_model(folder, text_recipe(recipe), tmp_path / "out")
    assert_agrees(exported)
    (method,) = read_coreml(exported.folder / "classifier.pte").values()
    assert (method.name, [kind.dtype for kind in method.outputs]) == ("classify", ["float32"])
    types = [operation.op_type for operation in method.function.operations]
    layers = exported.checkpoint.config.num_hidden_layers
    assert types.count("linear") == 4 * layers + (name != "Model")
    if recipe != "coreml-fp16":  # embedding, four products a layer and the head, all of them quantized
        assert len(stored_weights(method)) == 1 + 4 * layers + (name != "Model")
    (planned,) = exported.planned_bytes.values()
    assert planned == pytest.approx((exported.folder / "classifier.pte").stat().st_size, rel=0.5)


def test_llama_with_biases(tmp_path: Path) -> None:
    folder = make_text_model(
        tmp_path / "checkpoint", "LlamaForSequenceClassification", seed=7, attention_bias=True, mlp_bias=True,
        num_key_value_heads=1, std=0.1,
    )  # fmt: skip
    assert_agrees(export_text_model(folder, text_recipe("coreml-fp16"), tmp_path / "out"))


def test_another_position_would_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last token of the input, padding or not, is not the one that stands for a text."""
    monkeypatch.setattr(
        "helium_edge.targets.coreml.decoder.last_token",
        lambda b, x, signature: slice_axis(b, x, 0, signature.tokens - 1, signature.tokens),
    )
    folder = make_text_model(tmp_path / "checkpoint", "HeliumForSequenceClassification", seed=6)
    exported = export_text_model(folder, text_recipe("coreml-fp16"), tmp_path / "out")
    monkeypatch.undo()
    runner, expected = exported.runner(), exported.torch_text()
    errors = {where: rms_error(runner.run(ids), expected.run(ids)) for where, ids in id_rows().items()}
    assert {where for where, error in errors.items() if error > 0.1} == {"right", "inside", "first alone"}


def test_a_program_with_other_shapes_is_refused(tmp_path: Path) -> None:
    folder = make_text_model(tmp_path / "checkpoint", "HeliumModel", seed=6)
    exported = export_text_model(folder, text_recipe("coreml-fp16"), tmp_path / "out")
    path = exported.folder / "classifier.pte"
    with pytest.raises(BundleError, match="inputs are not those of the manifest"):
        CoremlTextRunner(path, "classify", dataclasses.replace(exported.signature, tokens=13))
    with pytest.raises(BundleError, match="no CoreML method prefill; found classify"):
        CoremlTextRunner(path, "prefill", exported.signature)
