"""What the peers are given is the same model: GGUF files, and the copy that is named Llama."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from helium_edge.checkpoint import open_checkpoint
from peer.agreement import logits_of
from peer.gguf_file import gguf_tensors, write_gguf
from peer.llama_copy import write_llama_copy
from tests.helpers.checkpoints import make_checkpoint

IDS = [5, 9, 17, 4, 33, 28, 90, 7, 61]


def read(path: Path) -> dict[str, gguf.ReaderTensor]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


def test_gguf_names_shapes_and_values(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path / "checkpoint")))
    write_gguf(checkpoint, tmp_path / "model.gguf", "f32")
    found = read(tmp_path / "model.gguf")
    layers = checkpoint.config.num_hidden_layers
    assert len(found) == len(checkpoint.tensors) == 3 + 9 * layers
    for name, mapped in gguf_tensors(checkpoint).items():
        expected = checkpoint.read(name).float().numpy()
        assert found[mapped].data.shape == expected.shape
        np.testing.assert_array_equal(found[mapped].data, expected, err_msg=name)
    # A gate and an up projection have one shape: their names are all that tells them apart.
    assert gguf_tensors(checkpoint)["model.layers.1.mlp.gate_proj.weight"] == "blk.1.ffn_gate.weight"
    assert gguf_tensors(checkpoint)["lm_head.weight"] == "output.weight"


def test_gguf_facts(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path / "checkpoint")))
    write_gguf(checkpoint, tmp_path / "model.gguf", "f32")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "model.gguf").fields.items()}
    config = checkpoint.config
    assert fields["general.architecture"] == "llama"
    assert fields["llama.block_count"] == config.num_hidden_layers
    assert fields["llama.attention.head_count_kv"] == config.num_key_value_heads
    assert fields["llama.rope.dimension_count"] == config.head_dim
    assert fields["llama.rope.freq_base"] == pytest.approx(config.rope_theta)
    assert fields["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(config.rms_norm_eps)
    assert fields["llama.vocab_size"] == config.vocab_size


def test_gguf_in_bfloat16_keeps_every_bit(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path / "checkpoint")))
    write_gguf(checkpoint, tmp_path / "model.gguf", "bf16")
    found = read(tmp_path / "model.gguf")["blk.0.ffn_down.weight"]
    expected = checkpoint.read("model.layers.0.mlp.down_proj.weight")
    assert found.tensor_type == gguf.GGMLQuantizationType.BF16
    np.testing.assert_array_equal(
        np.ascontiguousarray(found.data).view(np.uint16), expected.view(torch.uint16).numpy()
    )


def test_gguf_of_llama_turns_adjacent_pairs(tmp_path: Path) -> None:
    """llama.cpp pairs rows (2i, 2i + 1); a llama checkpoint pairs (i, i + D / 2)."""
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path / "checkpoint", model_type="llama")))
    write_gguf(checkpoint, tmp_path / "model.gguf", "f32")
    found = read(tmp_path / "model.gguf")["blk.0.attn_q.weight"].data
    stored = checkpoint.read("model.layers.0.self_attn.q_proj.weight").float().numpy()
    half = checkpoint.config.head_dim // 2
    second_head = 2 * half
    np.testing.assert_array_equal(found[second_head], stored[second_head])
    np.testing.assert_array_equal(found[second_head + 1], stored[second_head + half])
    np.testing.assert_array_equal(found[second_head + 2], stored[second_head + 1])


def test_copy_named_llama_is_the_same_function(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path / "checkpoint")))
    write_llama_copy(checkpoint, tmp_path / "copy")
    copy = open_checkpoint(str(tmp_path / "copy"))
    assert copy.config.model_type == "llama"
    expected, found = logits_of(checkpoint, IDS), logits_of(copy, IDS)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_renaming_alone_is_another_function(tmp_path: Path) -> None:
    """Otherwise the test before this one would show nothing."""
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path / "checkpoint")))
    write_llama_copy(checkpoint, tmp_path / "copy")
    renamed = make_checkpoint(tmp_path / "renamed")
    config = json.loads((tmp_path / "copy" / "config.json").read_text(encoding="utf-8"))
    (renamed / "config.json").write_text(json.dumps(config), encoding="utf-8")
    expected, found = logits_of(checkpoint, IDS), logits_of(open_checkpoint(str(renamed)), IDS)
    assert np.abs(found - expected).max() > 0.05 * np.abs(expected).max()
