"""Quantized ONNX graphs agree with our torch decoder that carries the same dequantized weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import export_graphs, random_tokens, relative_error, roll, small_recipe

CHUNKS, STEPS = [8, 8, 5], 16
# std 0.1 is near 1/sqrt(hidden_size): the attention is not saturated, so that rounding is not amplified.
MODEL: dict[str, Any] = {"seed": 5, "std": 0.1, "hidden_size": 128, "head_dim": 32, "intermediate_size": 192}
EXACT = {"accuracy_level": 0, "head_accuracy_level": 0}


def rules(scheme: str, **more: str) -> list[dict[str, Any]]:
    """Rules that give some weights another scheme than the rest."""
    return [{"match": match, "scheme": other} for match, other in more.items()] + [
        {"match": ".*", "scheme": scheme}
    ]


SCHEMES = {
    "int4 and int8": rules("int4-g32", **{r"model\.embed_tokens\.weight|lm_head\.weight": "int8"}),
    "int4 everywhere": rules("int4-g32"),
    "int4 g64": rules("int4-g64"),
    "int4 asymmetric": rules("int4-g32-asym"),
    "int8": rules("int8"),
    "mixed qkv": rules("int4-g32", **{r".*v_proj\.weight": "int8", r".*down_proj\.weight": "int8"}),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_contrib_equals_torch_at_accuracy_level_0(scheme: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "c", **MODEL)
    exported = export_graphs(folder, small_recipe("onnx-int4", rules=SCHEMES[scheme], onnx=EXACT), tmp_path / "o")
    tokens = random_tokens(37, exported.spec.vocab_size)
    expected = roll(exported.torch_runner(), tokens, CHUNKS, STEPS)
    for static in (False, True):
        assert relative_error(roll(exported.runner(static=static), tokens, CHUNKS, STEPS), expected) <= 1e-5


@pytest.mark.parametrize("scheme", SCHEMES)
def test_portable_equals_torch(scheme: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "c", **MODEL)
    exported = export_graphs(folder, small_recipe("onnx-int4-portable", rules=SCHEMES[scheme]), tmp_path / "o")
    tokens = random_tokens(37, exported.spec.vocab_size)
    expected = roll(exported.torch_runner(), tokens, CHUNKS, STEPS)
    # Without this ONNX Runtime fuses into MatMulNBits with int8 activations, which is another question.
    exact = {"session__qdq_matmulnbits_accuracy_level": "0"}
    for static in (False, True):
        found = roll(exported.runner(static=static, **exact), tokens, CHUNKS, STEPS)
        assert relative_error(found, expected) <= 1e-5
