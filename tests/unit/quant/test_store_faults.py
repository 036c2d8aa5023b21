"""The quantized store on damaged shards, full disks and weights that cannot be quantized."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.errors import CheckpointError, RecipeError, ResourceError, UsageError
from helium_edge.model import weights as model_weights
from helium_edge.quant import METHODS, QuantizedStore
from helium_edge.recipe import Quantization, Rule, Scheme
from tests.helpers.checkpoints import make_checkpoint, random_weights, tiny_config, write_weights
from tests.unit.quant.stores import G32, INT8, MIXED, QUERY, UP, assert_same, shards


def flip(data: bytearray, at: int) -> bytearray:
    data[at] ^= 1
    return data


DAMAGE = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "last byte missing": lambda data: data[:-1],
    "code flipped": lambda data: flip(data, len(data) - 1),
    "codes flipped": lambda data: flip(data, len(data) // 2 + 100),
    "header flipped": lambda data: flip(data, 20),
    "error flipped": lambda data: bytearray(bytes(data).replace(b"relative_error", b"relative_horror")),
    "other key": lambda data: bytearray(bytes(data).replace(b'key\\": \\"', b'key\\": \\"0')),
    "garbage": lambda data: b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_computed_again(
    damage: Any, checkpoint: Checkpoint, tmp_path: Path, computed: list[str]
) -> None:
    expected = QuantizedStore(checkpoint, MIXED, tmp_path).get(QUERY)
    (path,) = tmp_path.iterdir()
    sound = path.read_bytes()
    damaged = bytes(damage(bytearray(sound)))
    assert damaged != sound
    path.write_bytes(damaged)
    assert_same(QuantizedStore(checkpoint, MIXED, tmp_path).get(QUERY), expected)
    assert len(computed) == 2
    assert path.read_bytes() == sound


def test_a_shard_of_another_weight_is_not_taken(
    checkpoint: Checkpoint, tmp_path: Path, computed: list[str]
) -> None:
    store = QuantizedStore(checkpoint, MIXED, tmp_path)
    names = ["model.layers.0.mlp.up_proj.weight", UP]
    for name in names:
        store.get(name)
    first, second = (next(tmp_path.glob(f"{name}-*")) for name in names)
    second.write_bytes(first.read_bytes())
    expected = METHODS["mse"](model_weights.read_weight(checkpoint, UP), G32)
    assert_same(store.get(UP), expected)
    assert len(computed) == 3


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EFBIG"])
@pytest.mark.parametrize("call", ["os.replace"])
def test_a_full_disk_names_folder_and_bytes_and_leaves_nothing(
    call: str, code: str, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"
    store = QuantizedStore(checkpoint, MIXED, folder)
    store.get(QUERY)
    kept = shards(folder)

    def fail(*_: Any) -> None:
        number = getattr(errno, code)
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(ResourceError) as caught:
            store.get(UP)
    assert caught.value.exit_code == 6
    assert str(folder) in caught.value.message
    nbytes = int(caught.value.message.split(" bytes")[0].split()[-1])
    assert shards(folder) == kept
    store.get(UP)  # with space again, it goes on
    assert (folder / next(name for name in shards(folder) if name.startswith(UP))).stat().st_size == nbytes


def test_a_disk_that_fills_while_writing_leaves_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    store = QuantizedStore(checkpoint, MIXED, tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, limits[1]))
    try:
        with pytest.raises(ResourceError, match="no space"):
            store.get(UP)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert shards(tmp_path) == []


def test_an_interrupt_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        QuantizedStore(checkpoint, MIXED, tmp_path).get(UP)
    assert shards(tmp_path) == []


def test_a_folder_that_is_a_file_is_a_usage_error(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(UsageError, match="cannot be written") as caught:
        QuantizedStore(checkpoint, MIXED, path).get(UP)
    assert str(path) in caught.value.message
    assert path.read_text() == "mine"


def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "nan")
    weights = random_weights(tiny_config())
    weights[UP][1, 2] = float("nan")
    write_weights(folder, weights)
    store = QuantizedStore(open_checkpoint(str(folder)), MIXED, tmp_path / "store")
    with pytest.raises(CheckpointError, match="up_proj"):
        store.get(UP)
    assert not (tmp_path / "store").exists()


def test_a_tied_head_is_the_embedding_under_its_own_rule(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "tied", tie_word_embeddings=True)
    rules = (Rule(match=r"lm_head\.weight", scheme=G32), Rule(match=".*", scheme=INT8))
    checkpoint = open_checkpoint(str(folder))
    store = QuantizedStore(checkpoint, Quantization(method="rtn", rules=rules), tmp_path / "store")
    embedding = checkpoint.read("model.embed_tokens.weight")
    assert_same(store.get("model.embed_tokens.weight"), METHODS["rtn"](embedding, INT8))
    assert_same(store.get("lm_head.weight"), METHODS["rtn"](embedding, G32))


def test_rules_that_do_not_fit_are_refused_when_the_store_is_opened(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="cannot take"):
        QuantizedStore(
            checkpoint, Quantization(rules=(Rule(match=".*", scheme=Scheme(bits=4, group_size=128)),)), tmp_path
        )
