"""The store of calibrated weights: codes as they were found, the same bytes on every way, keys that tell."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.errors import CheckpointError, ResourceError
from helium_edge.model.weights import matrix_names, vector_names
from helium_edge.quant import QuantizedStore, QuantizedWeight, dequantize
from helium_edge.quant.calibrated import CalibratedStore
from helium_edge.quant.calibrated import store as store_module
from helium_edge.quant.calibrated.walk import Walk
from helium_edge.quant.digests import tensor_digest
from helium_edge.quant.methods import round_with
from helium_edge.recipe import Calibration
from tests.helpers.checkpoints import random_weights, tiny_config, write_weights
from tests.unit.quant.calibrated import models
from tests.unit.quant.stores import A32, G32, assert_same

WANTED = models.quantization(G32, k_proj=A32, gate_proj=None)
UP = "model.layers.1.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return models.model(tmp_path_factory.mktemp("model") / "c")


@pytest.fixture(scope="module")
def whole(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> CalibratedStore:
    store = models.open_store(checkpoint, tmp_path_factory.mktemp("whole") / "s", WANTED)
    store.prepare()
    return store


def content(store: CalibratedStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store._folder.iterdir())}


def names_of(checkpoint: Checkpoint) -> list[str]:
    return [*matrix_names(checkpoint.config), *vector_names(checkpoint.config)]


def forbid_walking(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any) -> None:
        raise AssertionError("a text was run")

    monkeypatch.setattr(Walk, "run", run)


def test_codes_are_those_that_were_found_and_do_not_follow_from_scales(
    checkpoint: Checkpoint, whole: CalibratedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = models.Kept()
    plan = whole.plan
    done = Walk(
        checkpoint.config, plan, models.Original(checkpoint), models.texts(checkpoint), whole.options, kept
    )
    done.run()
    moved = 0
    for planned in plan:
        weight = whole.get(planned.name)
        if planned.scheme is None:
            assert isinstance(weight, torch.Tensor)
            assert torch.equal(
                weight, done.folds.apply(planned.name, models.Original(checkpoint).read(planned.name))
            )
            assert not torch.equal(weight, models.Original(checkpoint).dense(planned.name))
            continue
        assert isinstance(weight, QuantizedWeight)
        assert_same(weight, kept.found[planned.name])
        rounded = round_with(kept.originals[planned.name], weight.scheme, weight.scales, weight.zero_points)
        moved += int((rounded.codes != weight.codes).sum())
        assert torch.equal(whole.dense(planned.name), dequantize(weight))
    assert moved > 1000
    for name in vector_names(checkpoint.config):
        assert torch.equal(whole.vector(name), done.folds.apply(name, models.Original(checkpoint).read(name)))


def test_what_stands_in_the_folder_is_read_without_running_a_text(
    checkpoint: Checkpoint, whole: CalibratedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid_walking(monkeypatch)
    again = models.open_store(checkpoint, whole._folder, WANTED)
    for name in names_of(checkpoint):
        get = again.get if name in again.names else again.vector
        expected = whole.get(name) if name in whole.names else whole.vector(name)
        assert_same(get(name), expected)
    assert again.reports() == whole.reports()
    assert again.fingerprint() == whole.fingerprint()


def test_another_folder_and_another_count_of_threads_give_the_same_bytes(
    checkpoint: Checkpoint, whole: CalibratedStore, tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3 if threads == 1 else 1)
        other = models.open_store(checkpoint, tmp_path / "s", WANTED)
        other.prepare()
        assert torch.get_num_threads() == (3 if threads == 1 else 1)
    finally:
        torch.set_num_threads(threads)
    assert content(other) == content(whole)
    assert other.fingerprint() == whole.fingerprint()


KILLED = """
import os, signal, sys
from pathlib import Path
from helium_edge.checkpoint import open_checkpoint
from tests.unit.quant.calibrated import models
from tests.unit.quant.calibrated.test_store import WANTED

left, real = int(sys.argv[3]), os.replace

def replace(source, target):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)

os.replace = replace
models.open_store(open_checkpoint(sys.argv[1]), Path(sys.argv[2]), WANTED).prepare()
"""
SHARDS = 1 + 2 * (1 + 6) + 2
"""Embedding; of each layer its factors and the matrices that are quantized; factors and weight of the head."""


def test_a_store_has_a_shard_a_weight(whole: CalibratedStore) -> None:
    assert len(content(whole)) == SHARDS


@pytest.mark.parametrize("point", [2, 4, SHARDS - 1])
def test_a_killed_run_goes_on_with_the_same_bytes(
    point: int, checkpoint: Checkpoint, whole: CalibratedStore, tmp_path: Path
) -> None:
    """Killed for good: before the first layer, between and within the matrices of an input, at the end."""
    folder = tmp_path / "s"
    command = [sys.executable, "-c", KILLED, str(checkpoint.folder), str(folder), str(point)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path])}
    killed = subprocess.run(command, check=False, timeout=120, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert len([path for path in folder.iterdir() if ".partial-" not in path.name]) == point - 1
    resumed = models.open_store(checkpoint, folder, WANTED)
    resumed.prepare()
    for path in folder.glob("*.partial-*"):
        path.unlink()
    assert content(resumed) == content(whole)


@pytest.mark.parametrize("point", [1, 2, 3, 5, 7, 8, 10, 11, 14, 16, SHARDS])
def test_a_run_that_ends_at_any_shard_goes_on_with_the_same_bytes(
    point: int, checkpoint: Checkpoint, whole: CalibratedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, real = point, os.replace

    def replace(*paths: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        real(*paths)

    store = models.open_store(checkpoint, tmp_path / "s", WANTED)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            store.prepare()
    store.prepare()  # the same object may be asked again
    assert content(store) == content(whole)


def test_a_damaged_shard_is_found_again_and_its_neighbours_stay(
    checkpoint: Checkpoint, whole: CalibratedStore, tmp_path: Path
) -> None:
    store = models.open_store(checkpoint, tmp_path / "s", WANTED)
    store.prepare()
    (path,) = store._folder.glob(f"{UP}-*")
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    assert_same(store.get(UP), whole.get(UP))
    assert content(store) == content(whole)


def test_a_folder_that_loses_what_is_written_is_told(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = models.open_store(checkpoint, tmp_path / "s", WANTED)
    store.prepare()
    monkeypatch.setattr("helium_edge.quant.calibrated.results.read_weight_shard", lambda *_, **__: None)
    with pytest.raises(ResourceError, match="cannot be read back"):
        store.get(UP)


def test_text_options_schemes_weights_and_code_have_keys_of_their_own(
    checkpoint: Checkpoint, whole: CalibratedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shards(store: CalibratedStore) -> set[str]:
        store.prepare()
        return set(content(store))

    def opened(**changes: Any) -> CalibratedStore:
        wanted = {
            "checkpoint": checkpoint,
            "folder": tmp_path / str(len(list(tmp_path.iterdir()))),
            "wanted": WANTED,
        }
        return models.open_store(**wanted | changes)

    known = shards(whole)
    assert shards(opened()) == known
    text = models.texts(checkpoint)
    changed = [list(ids) for ids in text]
    changed[-1][-1] = 7
    for other in (
        opened(given=changed),
        opened(given=text[:-1]),
        opened(wanted=WANTED.model_copy(update={"calibration": Calibration(damping=0.2)})),
        opened(wanted=WANTED.model_copy(update={"calibration": Calibration(rounds=1)})),
        opened(wanted=WANTED.model_copy(update={"calibration": Calibration(folds=False)})),
        opened(wanted=models.quantization(G32, k_proj=G32, gate_proj=None)),
    ):
        assert not shards(other) & known
    # A weight in the middle: what comes before it is the same, what comes after depends on it.
    config = tiny_config(**models.MODEL)
    folder = tmp_path / "other"
    models.model(folder, hot=1.0)
    weights = random_weights(config, std=models.STD)
    write_weights(folder, weights)
    first = shards(models.open_store(open_checkpoint(str(folder)), tmp_path / "p", WANTED))
    weights[UP][0, 0] += 1
    write_weights(folder, weights)
    second = shards(models.open_store(open_checkpoint(str(folder)), tmp_path / "q", WANTED))
    same = {name.rsplit("-", 1)[0] for name in first & second}
    assert "model.layers.0.mlp.down_proj.weight" in same
    assert not any(UP in name or "layers.1.mlp" in name or "head" in name for name in same)
    monkeypatch.setattr(store_module, "CODE_VERSION", 99)
    assert not shards(opened()) & known


def test_options_have_defaults_by_the_size_of_the_model(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = models.open_store(checkpoint, tmp_path, WANTED)
    assert dataclasses.asdict(store.options) == {"damping": 0.1, "rounds": 2, "folds": True, "corrected": True}
    assert store.tokens == sum(map(len, models.texts(checkpoint)))
    monkeypatch.setattr(store_module, "LARGE", 1)
    assert models.open_store(checkpoint, tmp_path, WANTED).options.rounds == 1
    asked = WANTED.model_copy(update={"calibration": Calibration(rounds=0)})
    assert models.open_store(checkpoint, tmp_path, asked).options.rounds == 0


def test_a_plain_store_does_not_calibrate_blindly(checkpoint: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no function of a single weight"):
        QuantizedStore(checkpoint, WANTED, tmp_path)


def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    models.model(folder)
    weights = random_weights(tiny_config(**models.MODEL), std=models.STD)
    weights[UP][3, 4] = float("inf")
    write_weights(folder, weights)
    store = models.open_store(open_checkpoint(str(folder)), tmp_path / "s", WANTED)
    with pytest.raises(CheckpointError, match=f"tensor {UP} holds 1 NaN or infinite"):
        store.prepare()


def test_digests_tell_every_part_of_a_weight(whole: CalibratedStore) -> None:
    weight = whole.get("model.layers.0.self_attn.k_proj.weight")
    assert isinstance(weight, QuantizedWeight)
    assert weight.zero_points is not None
    changes: list[dict[str, Any]] = []
    for part in ("codes", "scales", "zero_points"):
        tensor = getattr(weight, part).clone()
        tensor.view(-1)[0] = tensor.view(-1)[1] if part == "scales" else 15 - tensor.view(-1)[0]
        changes.append({part: tensor})
    digests = {tensor_digest(weight), *(tensor_digest(dataclasses.replace(weight, **each)) for each in changes)}
    assert len(digests) == 4
    norm = whole.vector("model.norm.weight")
    assert tensor_digest(norm) != tensor_digest(norm * (1 + 2**-20))
    assert tensor_digest(norm, torch.float16) == tensor_digest(norm.half().float(), torch.float16)
