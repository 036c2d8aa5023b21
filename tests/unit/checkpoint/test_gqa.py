"""Pooling key-value heads: exact on duplicated heads, contiguous groups, one checkpoint or none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from helium_edge.checkpoint import gqa, open_checkpoint
from helium_edge.checkpoint.gqa import pool_heads, write_grouped
from helium_edge.errors import UsageError
from helium_edge.parity import reference_runner
from tests.helpers.checkpoints import family_config, make_checkpoint, random_weights, write_weights

TOKENS = [1, 20, 33, 47, 91, 5, 118, 64]
DIM, HEADS = 16, 4


def with_duplicated_heads(folder: Path, groups: int, **overrides: Any) -> Path:
    """A multi-head checkpoint whose key-value heads are alike within each contiguous group."""
    make_checkpoint(folder, num_key_value_heads=HEADS, dtype=torch.float32, **overrides)
    weights = random_weights(family_config(num_key_value_heads=HEADS, **overrides), dtype=torch.float32)
    for name, tensor in weights.items():
        if ".k_proj." in name or ".v_proj." in name:
            heads = tensor.view(groups, HEADS // groups, DIM, *tensor.shape[1:])
            weights[name] = heads[:, :1].expand_as(heads).reshape(tensor.shape).contiguous()
    write_weights(folder, weights)
    return folder


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("overrides", [{"attention_bias": True}, {"model_type": "llama"}], ids=["helium", "llama"])
def test_pooling_duplicated_heads_is_exact(groups: int, overrides: dict[str, Any], tmp_path: Path) -> None:
    before = open_checkpoint(str(with_duplicated_heads(tmp_path / "before", groups, **overrides)))
    write_grouped(before, groups, tmp_path / "after")
    after = open_checkpoint(str(tmp_path / "after"))
    assert after.config.num_key_value_heads == groups
    expected = reference_runner(before, 32).prefill(TOKENS)
    found = reference_runner(after, 32).prefill(TOKENS)
    assert (found == expected).all()


def test_groups_are_contiguous_heads_and_rows_stay_apart() -> None:
    weight = torch.randn(HEADS * DIM, 8)
    pooled = pool_heads(weight, DIM, 2)
    heads = weight.view(HEADS, DIM, 8)
    assert torch.allclose(pooled[:DIM], (heads[0] + heads[1]) / 2)
    assert torch.allclose(pooled[DIM:], (heads[2] + heads[3]) / 2)
    assert pool_heads(weight, DIM, HEADS) is weight


def test_the_mean_is_taken_in_float32() -> None:
    rows = torch.tensor([[256.0], [1.0], [1.0], [1.0]], dtype=torch.bfloat16)
    assert pool_heads(rows, 1, 1).item() == torch.tensor(259.0 / 4).bfloat16().item()


def test_everything_else_stays(tmp_path: Path) -> None:
    before = open_checkpoint(str(make_checkpoint(tmp_path / "before", num_key_value_heads=4, spelling="5.x")))
    write_grouped(before, 2, tmp_path / "after")
    after = open_checkpoint(str(tmp_path / "after"))
    pooled = {name for name in before.tensors if ".k_proj." in name or ".v_proj." in name}
    assert list(after.tensors) == list(before.tensors)
    for name, info in after.tensors.items():
        assert info.dtype == before.tensors[name].dtype
        if name not in pooled:
            assert torch.equal(after.read(name), before.read(name))
    old, new = (json.loads((tmp_path / name / "config.json").read_text("utf-8")) for name in ("before", "after"))
    assert new == old | {"num_key_value_heads": 2}
    assert (tmp_path / "after" / "tokenizer.json").read_bytes() == (
        tmp_path / "before/tokenizer.json"
    ).read_bytes()


def test_large_checkpoints_become_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gqa, "SHARD_BYTES", 50_000)
    before = open_checkpoint(str(make_checkpoint(tmp_path / "before", num_key_value_heads=4, shards=2)))
    write_grouped(before, 1, tmp_path / "after")
    assert len(list((tmp_path / "after").glob("model-*.safetensors"))) > 1
    after = open_checkpoint(str(tmp_path / "after"))
    assert list(after.tensors) == list(before.tensors)


@pytest.mark.parametrize("groups", [3, 4, 8, 0])
def test_other_numbers_are_refused(groups: int, tmp_path: Path) -> None:
    before = open_checkpoint(str(make_checkpoint(tmp_path / "before", num_key_value_heads=4)))
    with pytest.raises(UsageError, match=r"4 key-value heads cannot be pooled to .*; allowed: 1, 2"):
        write_grouped(before, groups, tmp_path / "after")
    assert not (tmp_path / "after").exists()


def test_nothing_is_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_checkpoint(str(make_checkpoint(tmp_path / "before", num_key_value_heads=4)))
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="is already there"):
        write_grouped(before, 2, tmp_path / "taken")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gqa, "save_file", fail)
    with pytest.raises(OSError, match="No space"):
        write_grouped(before, 2, tmp_path / "after")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["before", "taken"]
