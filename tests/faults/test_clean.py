"""Right exports of random checkpoints raise no alarm: every level and every cache check is green."""

from __future__ import annotations

import importlib.util
import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults.checking import make_subject, random_recipe, run_check

SEEDS = range(50)
DEFAULT_SEEDS = frozenset([*range(14), 17, 24, 42])
"""Every recipe twice and more; the others are for the long tier."""
ONNX_RECIPES = ("onnx-int4", "onnx-int8", "onnx-int4-portable", "onnx-fp32", "onnx-int4-kv8", "onnx-int4-kv16")
XNNPACK_SEEDS = {
    7: "xnnpack-int4", 17: "xnnpack-int8", 27: "xnnpack-int4", 37: "xnnpack-int8", 42: "xnnpack-int4-kv8",
    12: "xnnpack-int4-kv16", 47: "xnnpack-int4-kv8",
}  # fmt: skip


def recipe_of(seed: int) -> str:
    """The recipe of a seed; every recipe meets models of every kind."""
    return XNNPACK_SEEDS.get(seed, ONNX_RECIPES[seed % len(ONNX_RECIPES)])


def model_of(seed: int) -> dict[str, Any]:
    """The shape of a seed's checkpoint."""
    choose = random.Random(seed).choice
    return {
        "seed": 1000 + seed,
        "std": choose([0.1, 0.12, 0.15]),
        "model_type": choose(["helium", "helium", "llama"]),
        "num_hidden_layers": choose([1, 2, 3]),
        "num_key_value_heads": choose([1, 2, 4]),
        "intermediate_size": choose([128, 192, 256]),
        "tie_word_embeddings": choose([True, False]),
        "attention_bias": choose([True, False]),
        "mlp_bias": choose([True, False]),
        "rope_theta": choose([10_000.0, 100_000.0]),
        "rms_norm_eps": choose([1e-8, 1e-5]),
    }


@pytest.mark.parametrize(
    "seed", [pytest.param(seed, marks=() if seed in DEFAULT_SEEDS else pytest.mark.long) for seed in SEEDS]
)
def test_no_false_alarm(seed: int, tmp_path: Path) -> None:
    name = recipe_of(seed)
    if name.startswith("xnnpack") and importlib.util.find_spec("executorch") is None:
        pytest.skip("executorch is not installed")
    subject = make_subject(tmp_path, random_recipe(name), **model_of(seed))
    report = run_check(subject.folder, subject.checkpoint, static=seed % 3 == 0)
    assert report.failures == []
    assert [level.level for level in report.levels] == ["L0", "L1", "L2", "L3"]
    assert len(report.checks) >= 7
