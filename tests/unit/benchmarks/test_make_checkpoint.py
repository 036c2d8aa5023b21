"""The random checkpoints of the benchmarks: of the shape asked for, the same each time, partly predictable."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import make_checkpoint
from helium_edge.checkpoint import open_checkpoint
from helium_edge.presets import PRESETS

SHAPE = {"hidden_size": 256, "intermediate_size": 320, "num_attention_heads": 4, "num_key_value_heads": 4}


@pytest.fixture
def preset(monkeypatch: pytest.MonkeyPatch) -> str:
    """A preset of few parameters, with helium-tiny's vocabulary."""
    vocab_size = open_checkpoint("helium-tiny").config.vocab_size
    small: dict[str, Any] = {**SHAPE, "head_dim": 64, "vocab_size": vocab_size}
    monkeypatch.setitem(PRESETS, "small", {**PRESETS["helium-1-preview-2b"], **small})
    return "small"


def write(folder: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make_checkpoint.py", preset, str(folder), "--layers", "2"])
    make_checkpoint.main()


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, preset, monkeypatch)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir())
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    checkpoint = open_checkpoint(str(tmp_path / "a"))
    assert checkpoint.config.num_hidden_layers == 2
    assert checkpoint.config.hidden_size == SHAPE["hidden_size"]


def test_every_token_has_a_successor(tmp_path: Path, preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the embedding alone, as wide as the last norm makes it."""
    write(tmp_path / "a", preset, monkeypatch)
    checkpoint = open_checkpoint(str(tmp_path / "a"))
    embedding = checkpoint.read("model.embed_tokens.weight").float()
    width = embedding.shape[1]
    arriving = width**0.5 * torch.nn.functional.normalize(embedding)
    logits = arriving @ checkpoint.read("lm_head.weight").float().T
    best, successor = logits.max(dim=-1)
    assert len(successor.unique()) > 0.9 * len(embedding)
    assert best.mean() == pytest.approx(make_checkpoint.SUCCESSOR_LOGIT[0], rel=0.1)
    probability = logits.softmax(dim=-1).amax(dim=-1)
    assert probability.quantile(0.05) < 0.5  # some follow hardly, some surely
    assert probability.quantile(0.95) > 0.9
