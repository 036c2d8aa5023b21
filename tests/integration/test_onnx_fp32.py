"""fp32 ONNX graphs agree with Hugging Face on random checkpoints in every configuration; a wrong RoPE does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helium_edge.evaluate.scorer import Request, Scorer
from helium_edge.parity import reference_runner
from helium_edge.runtime.onnx_rows import OnnxRowsRunner
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import export_graphs, random_tokens, relative_error, roll, small_recipe

# Weights of std 0.3 and gains in [0.5, 1.5]: at std 0.02 a wrong RoPE changes nothing one could see.
CASES: dict[str, dict[str, Any]] = {
    "gqa 4:2": {},
    "gqa 4:1": {"num_key_value_heads": 1},
    "mha": {"num_key_value_heads": 4},
    "attention bias": {"attention_bias": True},
    "mlp bias": {"mlp_bias": True, "attention_bias": True, "num_key_value_heads": 1},
    "tied": {"tie_word_embeddings": True},
    "theta": {"rope_theta": 500.0},
    "head_dim 32": {"head_dim": 32, "num_attention_heads": 4, "hidden_size": 128},
    "head_dim 64": {"head_dim": 64, "num_attention_heads": 4, "hidden_size": 256},
    "head_dim 128": {"head_dim": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 256},
    "gelu": {"hidden_act": "gelu"},
    "gelu tanh": {"hidden_act": "gelu_pytorch_tanh"},
    "relu": {"hidden_act": "relu"},
    "5.x spelling": {"spelling": "5.x", "rope_theta": 777.0},
    "llama": {"model_type": "llama", "spelling": "5.x"},
    "llama biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
}
CHUNKS, STEPS = [8, 8, 5], 16  # three prefill calls with a ragged tail, then decode


@pytest.mark.parametrize("dialect", ["contrib", "portable"])
@pytest.mark.parametrize("case", CASES)
def test_agrees_with_hugging_face(case: str, dialect: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "checkpoint", seed=3, **CASES[case])
    exported = export_graphs(folder, small_recipe("onnx-fp32", onnx={"dialect": dialect}), tmp_path / "out")
    tokens = random_tokens(sum(CHUNKS) + STEPS, exported.spec.vocab_size)
    expected = roll(reference_runner(exported.checkpoint, 48), tokens, CHUNKS, STEPS)
    for static in (False, True):
        found = roll(exported.runner(static=static), tokens, CHUNKS, STEPS)
        assert relative_error(found, expected) <= 1e-4
    assert relative_error(roll(exported.torch_runner(), tokens, CHUNKS, STEPS), expected) <= 1e-4


@pytest.mark.parametrize("dialect", ["contrib", "portable"])
def test_every_runner_scores_choices_alike(dialect: str, tmp_path: Path) -> None:
    """Over a cache that is rewound, of both kinds; the shipped graph through its one Gather, too."""
    folder = make_checkpoint(tmp_path / "checkpoint", seed=3)
    exported = export_graphs(folder, small_recipe("onnx-fp32", onnx={"dialect": dialect}), tmp_path / "out")
    tokens = random_tokens(40, exported.spec.vocab_size)
    contexts = [tuple(tokens[:length]) for length in (30, 9, 17, 29, 1)]
    choices = [tuple(tokens[at : at + length]) for at, length in ((3, 1), (3, 4), (20, 9), (3, 2))]
    requests = [Request(context, choice) for context in contexts for choice in choices]
    reference = reference_runner(exported.checkpoint, 48)
    expected = Scorer(reference, "all", reuse=False).score(requests)
    rows = OnnxRowsRunner(exported.folder, {"any": "decoder.onnx"}, exported.spec)
    scorers = {
        "transformers": Scorer(reference, "all"),
        "torch": Scorer(exported.torch_runner(), "all"),
        "rows": Scorer(rows, "last"),
        "decoded": Scorer(exported.runner(), "last"),
        "static": Scorer(exported.runner(static=True), "last"),
    }
    for name, scorer in scorers.items():
        found = scorer.score(requests)
        off = [
            abs(one.log_probability - other.log_probability) for one, other in zip(found, expected, strict=True)
        ]
        assert max(off) <= 1e-3, name  # nats of up to nine tokens, of logits with an rms of about 10
        assert [each.greedy for each in found] == [each.greedy for each in expected], name


def test_reordered_llama_rows_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way round: rows of a checkpoint that needs no reordering are left alone."""
    monkeypatch.setattr("helium_edge.config.ModelConfig.rope_interleaved", True)
    folder = make_checkpoint(tmp_path / "checkpoint", seed=3, model_type="llama")
    exported = export_graphs(folder, small_recipe("onnx-fp32"), tmp_path / "out")
    tokens = random_tokens(sum(CHUNKS) + STEPS, exported.spec.vocab_size)
    expected = roll(reference_runner(exported.checkpoint, 48), tokens, CHUNKS, STEPS)
    assert relative_error(roll(exported.runner(), tokens, CHUNKS, STEPS), expected) > 0.1


@pytest.mark.parametrize("dialect", ["contrib", "portable"])
def test_half_split_rope_fails(dialect: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation that shape checks cannot see: q and k rows left in interleaved order."""
    monkeypatch.setattr("helium_edge.model.weights.reorder_interleaved_rows", lambda weight, _: weight)
    folder = make_checkpoint(tmp_path / "checkpoint", seed=3)
    exported = export_graphs(folder, small_recipe("onnx-fp32", onnx={"dialect": dialect}), tmp_path / "out")
    tokens = random_tokens(sum(CHUNKS) + STEPS, exported.spec.vocab_size)
    expected = roll(reference_runner(exported.checkpoint, 48), tokens, CHUNKS, STEPS)
    assert relative_error(roll(exported.runner(), tokens, CHUNKS, STEPS), expected) > 0.1
