"""`helium-edge bench` on real bundles: what is asked for is what graphs are run at. No test depends on times."""

from __future__ import annotations

import importlib.util
import json
import mmap
import os
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from helium_edge.cli.main import run

from helium_edge.bench.engine import WorkerProcess
from helium_edge.bench.schema import document_schema as bench_schema
from helium_edge.bench.worker import Worker
from helium_edge.bundle import open_bundle
from helium_edge.errors import BundleError, CacheFullError, ResourceError
from helium_edge.runtime.runner import SeekableRunner
from helium_edge.targets.loading import open_runner
from tests.helpers.bundles import CACHE_LEN, PREFILL_LEN, bundle_recipe, export_bundle
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens
from tests.helpers.text_models import make_text_model

QUICK = ("--repeats", "2", "--steps", "2", "--loads", "1", "--threads", "1")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("bench") / "checkpoint", std=0.2)


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    return export_bundle(checkpoint, bundle_recipe("onnx-int8"), checkpoint.with_name("onnx")).folder


@pytest.fixture(scope="module")
def program(checkpoint: Path) -> Path:
    """An XNNPACK bundle with two decode methods."""
    if importlib.util.find_spec("executorch") is None:
        pytest.skip("executorch is not installed")
    recipe = bundle_recipe("xnnpack-fp32", xnnpack={"cache_buckets": [16]})
    return export_bundle(checkpoint, recipe, checkpoint.with_name("xnnpack")).folder


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What was printed, which must be one document that follows the schema."""
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator(json.loads(bench_schema())).validate(data)
    return data


def test_a_bundle_is_measured_from_end_to_end(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(bundle), *QUICK, "--context", "0,20", "--json"]) == 0
    data = document(capsys)
    (found,) = data["bundles"]
    cases = [(result["phase"], result["context"], result["tokens"]) for result in found["results"]]
    assert cases == [
        ("decode", 0, 2),
        ("decode", 20, 2),
        ("prefill", 0, PREFILL_LEN),
        ("prefill", 20, PREFILL_LEN),
    ]
    assert all(result["ms"]["n"] == 2 and result["ms"]["min"] > 0 for result in found["results"])
    decode = found["results"][:2]
    cache = open_bundle(bundle).manifest.cache
    assert cache is not None
    assert decode[1]["bytes_read"] - decode[0]["bytes_read"] == 20 * cache.bytes_per_token
    assert data["bandwidth_bytes_per_second"]["before"] > 1e8
    memory = found["memory"]
    assert memory["before"]["anonymous_bytes"] < memory["ready"]["anonymous_bytes"]
    assert data["settings"]["threads"] == 1
    assert data["ratios"] == []


@pytest.mark.full
def test_two_bundles_take_turns(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(bundle), "--compare", str(bundle), *QUICK, "--context", "0", "--json"]) == 0
    data = document(capsys)
    assert len(data["bundles"]) == 2
    (decode, prefill) = data["ratios"]
    assert (decode["phase"], prefill["phase"]) == ("decode", "prefill")
    pairs = [found["results"][0]["ms"]["samples"] for found in data["bundles"]]
    assert decode["speed"]["samples"] == pytest.approx([b / a for a, b in zip(*pairs, strict=True)])


def test_the_text_is_80_columns_wide(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(bundle), "--compare", str(bundle), *QUICK]) == 0
    lines = capsys.readouterr().out.splitlines()
    tables = [line for line in lines if not line.startswith((str(bundle), "speed:"))]
    assert max(map(len, tables)) <= 80
    assert sum(line.startswith("decode at") for line in tables) == 2


@pytest.mark.full
def test_xnnpack_is_measured_with_its_shorter_caches(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(program), *QUICK, "--context", "0,30", "--json"]) == 0
    data = document(capsys)
    manifest = open_bundle(program).manifest
    assert manifest.cache is not None
    reads = [result["bytes_read"] for result in data["bundles"][0]["results"] if result["phase"] == "decode"]
    rows = [(read - manifest.memory.packed_bytes) // manifest.cache.bytes_per_token for read in reads]
    assert rows == [16, CACHE_LEN]


@pytest.mark.parametrize("target", ["onnx", "xnnpack"])
def test_a_classifier_has_one_figure(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if target == "xnnpack" and importlib.util.find_spec("executorch") is None:
        pytest.skip("executorch is not installed")
    source = make_text_model(tmp_path / "classifier", "HeliumForSequenceClassification")
    folder = export_bundle(source, bundle_recipe(f"{target}-int8"), tmp_path / "topics").folder
    assert run(["bench", str(folder), *QUICK, "--json"]) == 0
    data = document(capsys)
    (result,) = data["bundles"][0]["results"]
    assert (result["phase"], result["tokens"]) == ("classify", PREFILL_LEN)
    assert "tokens_per_second" not in result
    assert data["settings"]["contexts"] == []
    assert run(["bench", str(folder), "--context", "0"]) == 2


# -- the depth is real


def check_depth(folder: Path) -> None:
    """A runner that is told it is at a depth gives the logits of one that got there token by token."""
    opened = open_bundle(folder)
    true, told = open_runner(opened, threads=1), open_runner(opened, threads=1)
    assert isinstance(told, SeekableRunner)
    tokens = random_tokens(30, true.vocab_size, seed=3)
    true.prefill(tokens[:20])
    assert isinstance(true, SeekableRunner)
    for to, source in zip(told.cache_buffers, true.cache_buffers, strict=True):
        to[...] = source
    told.seek(20)
    np.testing.assert_array_equal(told.decode(tokens[20]), true.decode(tokens[20]))
    assert told.position == 21
    told.seek(0)
    alone = told.decode(tokens[1])
    told.seek(0)
    # Of another token: two that are alike attend to equal values, wherever they stand.
    told.decode(tokens[0])
    assert np.abs(told.decode(tokens[1]) - alone).max() > 1e-3
    told.seek(CACHE_LEN)
    with pytest.raises(CacheFullError):
        told.decode(tokens[0])
    for position in (-1, CACHE_LEN + 1):
        with pytest.raises(CacheFullError):
            told.seek(position)


def test_a_depth_is_what_the_graph_sees(bundle: Path) -> None:
    check_depth(bundle)


def test_a_depth_is_what_the_methods_see(program: Path) -> None:
    check_depth(program)


@pytest.mark.skipif(not hasattr(mmap, "MADV_NOHUGEPAGE"), reason="only Linux has large pages to do without")
@pytest.mark.parametrize("made", ["bundle", "program"])
def test_runners_take_memory_as_slots_are_written(made: str, request: pytest.FixtureRequest) -> None:
    """On pages of numpy's choice the first token would make the whole cache resident."""
    runner = open_runner(open_bundle(request.getfixturevalue(made)), threads=1)
    assert isinstance(runner, SeekableRunner)
    for buffer in runner.cache_buffers:
        holder = buffer.base
        while isinstance(holder, np.ndarray | memoryview):
            holder = holder.base if isinstance(holder, np.ndarray) else holder.obj
        assert isinstance(holder, mmap.mmap)


def test_samples_begin_at_their_depth(bundle: Path) -> None:
    worker = Worker()
    worker.answer({"op": "load", "bundle": str(bundle), "threads": 1, "static": False})
    worker.answer({"op": "fill"})
    for context, tokens in ((0, 3), (20, 5), (CACHE_LEN - 4, 4)):
        answer = worker.answer({"op": "decode", "context": context, "tokens": tokens})
        assert answer["position"] == context + tokens
        assert len(answer["steps_ns"]) == tokens
    assert worker.answer({"op": "prefill", "context": 20, "tokens": 11})["position"] == 31


def test_logits_that_are_not_finite_are_refused(bundle: Path) -> None:
    worker = Worker()
    worker.answer({"op": "load", "bundle": str(bundle), "threads": 1, "static": False})
    assert worker._runner is not None
    for buffer in worker._runner.cache_buffers:
        buffer[...] = np.nan
    assert "not finite" in worker.answer({"op": "decode", "context": 8, "tokens": 1})["error"]["message"]


# -- what goes wrong


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--context", "47"), "--context 47: the KV cache has 48 slots"),
        (("--context", "1,-2"), "not whole numbers from 0 on"),
        (("--prefill", "0"), "not whole numbers from 1 on"),
        (("--prefill", "eight"), "not whole numbers"),
        (("--repeats", "1"), "--repeats"),
    ],
)
def test_usage_is_checked_before_anything_is_loaded(
    bundle: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert run(["bench", str(bundle), *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_a_damaged_bundle_is_measured_only_unverified(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    (damaged / "config.json").write_text("{}")
    assert run(["bench", str(damaged), *QUICK, "--context", "0"]) == 3
    assert "config.json" in capsys.readouterr().err
    assert run(["bench", str(damaged), *QUICK, "--context", "0", "--unverified", "--json"]) == 0
    assert document(capsys)["bundles"][0]["bundle"] == str(damaged)


def renamed(bundle: Path, folder: Path, target: str, runtime: str) -> Path:
    """A copy that says it was made for another target; only the manifest is looked at before it is refused."""
    shutil.copytree(bundle, folder)
    path = folder / "helium-edge.json"
    data = json.loads(path.read_text())
    data["target"]["name"], data["runtime"] = target, runtime
    path.write_text(json.dumps(data))
    return folder


def test_coreml_is_refused_in_one_line(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = renamed(bundle, tmp_path / "coreml", "coreml", "executorch")
    assert run(["bench", str(folder), "--unverified"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert "interpreter" in error
    assert hint.startswith("hint: ")


def test_a_missing_runtime_is_exit_code_5(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = renamed(bundle, tmp_path / "xnnpack", "xnnpack", "executorch")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert run(["bench", str(folder), "--unverified"]) == 5
    assert "executorch" in capsys.readouterr().err


def test_a_killed_worker_is_memory_that_ran_out() -> None:
    with closing(WorkerProcess()) as worker:
        os.kill(worker.pid, signal.SIGKILL)
        # Only once it is dead the pipe is surely broken: both the request and closing meet that.
        os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ResourceError, match="memory ran out"):
            worker.ask("memory")


def test_errors_of_the_worker_are_those_of_the_command(tmp_path: Path) -> None:
    with closing(WorkerProcess()) as worker, pytest.raises(BundleError, match="no such folder"):
        worker.ask("load", bundle=str(tmp_path / "none"), threads=1, static=False)


# -- predictions


def test_a_phone_that_is_not_here_is_predicted_and_called_that(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", str(bundle), "--phone-model", "pixel-8"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Predicted, not measured: Pixel 8 (Tensor G3), 4 threads\n")
    assert max(map(len, text.splitlines())) <= 80
    assert run(["bench", str(bundle), "--phone-model", "pixel-8", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["prediction"]
    assert found["predicted"] is True
    assert [(step["phase"], step["context"]) for step in found["steps"]] == [
        ("decode", 0), ("decode", CACHE_LEN - 1), ("prefill", 0)
    ]  # fmt: skip
    assert run(["inspect", str(bundle), "--json"]) == 0
    assert found in json.loads(capsys.readouterr().out)["predictions"]
    assert run(["bench", str(bundle), "--phone-model", "pixel"]) == 2
    assert "no phone named 'pixel': snapdragon-8-gen-3, pixel-8, cortex-a78" in capsys.readouterr().err
