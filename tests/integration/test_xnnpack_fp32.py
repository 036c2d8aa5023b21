"""fp32 programs for XNNPACK agree with Hugging Face on random checkpoints in every configuration."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from transformers import DynamicCache

from helium_edge.parity.reference import ReferenceRunner, load_reference, reference_runner
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens, relative_error, roll
from tests.integration.test_onnx_fp32 import CASES, CHUNKS, STEPS

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from tests.helpers.xnnpack import OUTSIDE, export_xnnpack, xnnpack_recipe


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_hugging_face(case: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", seed=3, **CASES[case])
    exported = export_xnnpack(folder, xnnpack_recipe("xnnpack-fp32"), tmp_path / "out")
    tokens = random_tokens(sum(CHUNKS) + STEPS, exported.spec.vocab_size)
    # In float64: what float32 rounds in transformers itself is up to 3e-5 here, and not the export's.
    model = load_reference(exported.checkpoint).double()
    exact = ReferenceRunner(model, DynamicCache, exported.spec.vocab_size, 48, "all")
    assert (
        relative_error(roll(exported.runner(), tokens, CHUNKS, STEPS), roll(exact, tokens, CHUNKS, STEPS)) <= 1e-4
    )
    for method in exported.program().methods.values():
        assert method.delegates == 1
        assert set(method.operators) <= OUTSIDE


def test_half_split_rope_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation that shape checks cannot see: q and k rows left in interleaved order."""
    monkeypatch.setattr("helium_edge.model.weights.reorder_interleaved_rows", lambda weight, _: weight)
    folder = make_checkpoint(tmp_path / "checkpoint", seed=3)
    exported = export_xnnpack(folder, xnnpack_recipe("xnnpack-fp32"), tmp_path / "out")
    tokens = random_tokens(sum(CHUNKS) + STEPS, exported.spec.vocab_size)
    expected = roll(reference_runner(exported.checkpoint, 48), tokens, CHUNKS, STEPS)
    assert relative_error(roll(exported.runner(), tokens, CHUNKS, STEPS), expected) > 0.1
