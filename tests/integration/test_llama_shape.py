"""The shape of helium-1-2b at an eighth of its width, on both runtimes, against `LlamaForCausalLM`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.parity import reference_runner
from helium_edge.presets import PRESETS
from helium_edge.runtime.runner import Logits
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import CACHE_LEN, export_graphs, random_tokens, relative_error, roll, small_recipe

CHUNKS, STEPS, VOCAB = [8, 8, 5], 12, 8000
TOKENS = random_tokens(sum(CHUNKS) + STEPS, VOCAB)


def make_eighth(folder: Path, **changes: int) -> Path:
    shape = dict(PRESETS["helium-1-2b"])
    for key in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "vocab_size"):
        shape[key] //= 8
    # 28 layers of std 0.3 amplify float32's own noise to 1e-4; 0.1 shows a wrong rotation all the same.
    return make_checkpoint(folder, seed=4, std=0.1, tokenizer=False, spelling="5.x", **(shape | changes))


def reference(folder: Path) -> Logits:
    opened = open_checkpoint(str(folder))
    assert opened.config.architecture == "LlamaForCausalLM"
    assert (opened.config.num_attention_heads, opened.config.num_key_value_heads) == (2, 1)
    return roll(reference_runner(opened, CACHE_LEN), TOKENS, CHUNKS, STEPS)


def test_onnx_at_full_depth(tmp_path: Path) -> None:
    folder = make_eighth(tmp_path / "eighth")
    expected = reference(folder)
    exported = export_graphs(folder, small_recipe("onnx-fp32"), tmp_path / "onnx")
    assert relative_error(roll(exported.runner(), TOKENS, CHUNKS, STEPS), expected) <= 1e-4


def test_xnnpack(tmp_path: Path) -> None:
    """Four layers of the 28: lowering takes seconds a layer. All of them gave 4.8e-5."""
    if importlib.util.find_spec("executorch") is None:
        pytest.skip("executorch is not installed")
    from tests.helpers.xnnpack import export_xnnpack, xnnpack_recipe

    folder = make_eighth(tmp_path / "eighth", num_hidden_layers=4)
    exported = export_xnnpack(folder, xnnpack_recipe("xnnpack-fp32"), tmp_path / "xnnpack")
    found = roll(exported.runner(), TOKENS, CHUNKS, STEPS)
    assert relative_error(found, reference(folder)) <= 1e-4
