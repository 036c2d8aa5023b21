"""The quantized store: what it holds, and that it computes each weight once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.model import weights as model_weights
from helium_edge.model.weights import matrix_names, vector_names
from helium_edge.quant import METHODS, QuantizedStore, QuantizedWeight, dequantize, plan_weights
from helium_edge.quant import store as store_module
from helium_edge.quant.affine import relative_error
from helium_edge.recipe import Quantization, load_recipe
from tests.helpers.checkpoints import make_checkpoint, random_weights, tiny_config, write_weights
from tests.unit.quant.stores import A32, G32, MIXED, QUERY, SKIP, UP, assert_same, shards


def test_weights_are_those_of_the_method_on_the_reordered_original(checkpoint: Checkpoint, tmp_path: Path) -> None:
    store = QuantizedStore(checkpoint, MIXED, tmp_path)
    assert store.names == matrix_names(checkpoint.config)
    assert store.plan == plan_weights(checkpoint.config, MIXED)
    for planned in store.plan:
        original = model_weights.read_weight(checkpoint, planned.name)
        expected = original.float() if planned.scheme is None else METHODS["mse"](original, planned.scheme)
        for _ in range(2):  # computed, then read
            assert_same(store.get(planned.name), expected)
        dense = dequantize(expected) if isinstance(expected, QuantizedWeight) else expected
        assert torch.equal(store.dense(planned.name), dense)
    for name in vector_names(checkpoint.config):
        assert torch.equal(store.vector(name), checkpoint.read(name).float())
    assert len(shards(tmp_path)) == len(store.names) - 1


def test_shards_hold_scales_and_say_what_they_are(checkpoint: Checkpoint, tmp_path: Path) -> None:
    store = QuantizedStore(checkpoint, MIXED, tmp_path)
    for report in store.reports():
        if report.name == SKIP:
            assert not list(tmp_path.glob(f"{report.name}-*"))
            continue
        (path,) = tmp_path.glob(f"{report.name}-*.safetensors")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            facts = json.loads(file.metadata()["helium_edge"])
        weight = store.get(report.name)
        assert isinstance(weight, QuantizedWeight)
        assert sorted(tensors) == (["scales"] if weight.scheme.symmetric else ["scales", "zero_points"])
        assert torch.equal(tensors["scales"].float(), weight.scales)
        assert tensors["scales"].dtype == (torch.float32 if weight.scheme.bits == 8 else torch.bfloat16)
        assert facts["scheme"] == report.scheme
        assert facts["method"] == "mse"
        assert facts["relative_error"] == report.relative_error
        assert path.name == f"{report.name}-{facts['key'][:16]}.safetensors"


def test_reports(checkpoint: Checkpoint, tmp_path: Path) -> None:
    reports = {report.name: report for report in QuantizedStore(checkpoint, MIXED, tmp_path).reports()}
    assert list(reports) == matrix_names(checkpoint.config)
    assert (reports[SKIP].scheme, reports[SKIP].relative_error, reports[SKIP].nbytes) == (
        "float32",
        0.0,
        160 * 64 * 4,
    )
    down = reports["model.layers.0.mlp.down_proj.weight"]
    assert (down.scheme, down.fallback, down.shape) == ("int4-g32", True, (64, 96))
    assert (reports[QUERY].scheme, reports[QUERY].fallback) == ("int4-g32-asym", False)
    original = model_weights.read_weight(checkpoint, UP)
    expected = relative_error(original, METHODS["mse"](original, G32))
    assert reports[UP].relative_error == pytest.approx(expected, rel=1e-5)
    again = QuantizedStore(checkpoint, MIXED, tmp_path).reports()
    assert again == list(reports.values())


def test_a_weight_is_read_once_each_time_and_computed_once(
    checkpoint: Checkpoint, tmp_path: Path, reads: Counter[str], computed: list[str]
) -> None:
    store = QuantizedStore(checkpoint, MIXED, tmp_path)
    assert not reads  # planning reads nothing
    store.get(UP)
    assert (reads[UP], len(computed)) == (1, 1)
    store.get(UP)  # its codes follow from its scales
    store.reports()
    assert (reads[UP], reads[QUERY], reads[SKIP]) == (2, 1, 0)
    done = len(computed)
    QuantizedStore(checkpoint, MIXED, tmp_path).reports()
    assert len(computed) == done
    assert (reads[UP], reads[QUERY]) == (3, 2)
    (shard,) = tmp_path.glob(f"{UP}-*")
    shard.unlink()
    store.get(UP)
    assert (reads[UP], len(computed)) == (4, done + 1)


def test_a_method_that_does_not_search_keeps_nothing(checkpoint: Checkpoint, tmp_path: Path) -> None:
    store = QuantizedStore(checkpoint, MIXED.model_copy(update={"method": "rtn"}), tmp_path / "store")
    for planned in store.plan:
        original = model_weights.read_weight(checkpoint, planned.name)
        expected = original.float() if planned.scheme is None else METHODS["rtn"](original, planned.scheme)
        for _ in range(2):
            assert_same(store.get(planned.name), expected)
    assert [report.relative_error > 0 for report in store.reports()].count(False) == 1
    assert not (tmp_path / "store").exists()


def test_only_missing_shards_are_computed_again(
    checkpoint: Checkpoint, tmp_path: Path, computed: list[str]
) -> None:
    QuantizedStore(checkpoint, MIXED, tmp_path).reports()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    computed.clear()
    for name in (UP, QUERY):
        next(tmp_path.glob(f"{name}-*")).unlink()
    QuantizedStore(checkpoint, MIXED, tmp_path).reports()
    assert computed == ["(64, 64) int4-g32-asym", "(96, 64) int4-g32"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


KILLED = """
import os, signal, sys
from pathlib import Path
from helium_edge.checkpoint import open_checkpoint
from helium_edge.quant import QuantizedStore, shard
from helium_edge.recipe import load_recipe

left = 5
real = os.replace

def replace(source, target):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)

os.replace = replace
quantization = load_recipe("onnx-int4").quantization.model_copy(update={"method": "mse"})
QuantizedStore(open_checkpoint(sys.argv[1]), quantization, Path(sys.argv[2])).reports()
"""


def test_a_killed_run_resumes(checkpoint: Checkpoint, tmp_path: Path, computed: list[str]) -> None:
    folder, whole = tmp_path / "store", tmp_path / "whole"
    command = [sys.executable, "-c", KILLED, str(checkpoint.folder), str(folder)]
    assert subprocess.run(command, check=False, timeout=120).returncode == -signal.SIGKILL
    left = shards(folder)
    assert len([name for name in left if name.endswith(".safetensors")]) == 4
    assert len([name for name in left if ".partial-" in name]) == 1

    recipe = load_recipe("onnx-int4").quantization.model_copy(update={"method": "mse"})
    resumed = QuantizedStore(checkpoint, recipe, folder)
    reports = resumed.reports()
    assert len(computed) == len(reports) - 4
    # What a run that may still be at work wrote is spared; an hour later it goes with the next shard.
    (partial,) = folder.glob("*.partial-*")
    hour_ago = time.time() - 4000
    os.utime(partial, (hour_ago, hour_ago))
    next(folder.glob(f"{UP}-*")).unlink()
    resumed.get(UP)
    assert not partial.exists()
    QuantizedStore(checkpoint, recipe, whole).reports()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in whole.iterdir()
    }


def test_another_weight_scheme_method_or_code_has_another_key(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "store"

    def names(path: Path, quantization: Quantization) -> set[str]:
        store = QuantizedStore(open_checkpoint(str(path)), quantization, folder)
        before = set(shards(folder)) if folder.exists() else set()
        store.reports()
        return set(shards(folder)) - before

    count = len(names(tiny_checkpoint, MIXED))
    assert count == 15
    assert names(tiny_checkpoint, MIXED) == set()

    changed = make_checkpoint(tmp_path / "changed")
    weights = random_weights(tiny_config())
    weights[UP][3, 5] += 0.25
    write_weights(changed, weights)
    (name,) = names(changed, MIXED)
    assert name.startswith(UP)

    same_bytes = make_checkpoint(tmp_path / "float16")
    write_weights(
        same_bytes, {name: weight.view(torch.float16) for name, weight in random_weights(tiny_config()).items()}
    )
    assert len(names(same_bytes, MIXED)) == count  # other numbers, told by the type alone

    rules = [rule if rule.scheme != A32 else rule.model_copy(update={"scheme": G32}) for rule in MIXED.rules]
    assert len(names(tiny_checkpoint, MIXED.model_copy(update={"rules": tuple(rules)}))) == 4
    monkeypatch.setattr(store_module, "CODE_VERSION", store_module.CODE_VERSION + 1)
    assert len(names(tiny_checkpoint, MIXED)) == count


def test_fingerprint_changes_with_any_number_and_with_nothing_else(tiny_checkpoint: Path, tmp_path: Path) -> None:
    def fingerprint(path: Path, folder: str, quantization: Quantization = MIXED) -> str:
        return QuantizedStore(open_checkpoint(str(path)), quantization, tmp_path / folder).fingerprint()

    first = fingerprint(tiny_checkpoint, "a")
    assert first == fingerprint(tiny_checkpoint, "b")
    assert not (tmp_path / "a").exists()  # nothing is quantized for it
    store = QuantizedStore(open_checkpoint(str(tiny_checkpoint)), MIXED, tmp_path / "c")
    store.reports()
    assert store.fingerprint() == first
    assert fingerprint(tiny_checkpoint, "a", MIXED.model_copy(update={"method": "rtn"})) != first
    changed = make_checkpoint(tmp_path / "changed")
    for name in (UP, SKIP, "model.norm.weight"):
        weights = random_weights(tiny_config())
        weights[name].view(-1)[3] += 0.25
        write_weights(changed, weights)
        assert fingerprint(changed, "a") != first, name
