"""optimum's stock export as an oracle: equal to transformers, on both spellings of theta, and behind `Runner`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.errors import CacheFullError, CheckpointError, UsageError
from helium_edge.parity import reference_runner
from helium_edge.parity.oracle_optimum import OptimumRunner, compare_oracles, optimum_runner
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import export_graphs, random_tokens, relative_error, roll, small_recipe

pytestmark = pytest.mark.optimum

CACHE_LEN = 64
CASES: dict[str, dict[str, Any]] = {
    "theta of 5.x": {"spelling": "5.x", "rope_theta": 777.0, "num_key_value_heads": 1},
    "biases, tied": {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    "llama": {"model_type": "llama", "spelling": "5.x"},
}
WINDOWS = [random_tokens(50, 160, seed) for seed in range(2)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return open_checkpoint(str(make_checkpoint(tmp_path_factory.mktemp("oracle") / "tiny", seed=3)))


@pytest.fixture(scope="module")
def oracle(checkpoint: Checkpoint) -> OptimumRunner:
    return optimum_runner(checkpoint, CACHE_LEN, threads=2)


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_transformers(case: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path / "m", seed=3, **CASES[case])))
    found = compare_oracles(
        reference_runner(checkpoint, CACHE_LEN), optimum_runner(checkpoint, CACHE_LEN), WINDOWS, tolerance=1e-4
    )
    assert found.agrees, found
    assert (found.tokens, found.top1) == (100, 1.0)
    assert found.max_logit_error > 0


def test_agrees_with_our_graphs(checkpoint: Checkpoint, oracle: OptimumRunner, tmp_path: Path) -> None:
    exported = export_graphs(checkpoint.folder, small_recipe("onnx-fp32"), tmp_path / "out")
    expected = roll(oracle, WINDOWS[0], [8, 8, 5], 16)
    assert relative_error(roll(exported.runner(static=True), WINDOWS[0], [8, 8, 5], 16), expected) <= 1e-4


def test_a_stock_export_that_is_wrong_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers 4.57, and so optimum, does by itself with a config.json of transformers 5."""

    @contextmanager
    def as_it_is(checkpoint: Checkpoint, version: str) -> Iterator[Path]:
        yield checkpoint.folder

    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path / "m", spelling="5.x", rope_theta=500.0)))
    reference = reference_runner(checkpoint, CACHE_LEN)
    monkeypatch.setattr("helium_edge.parity.oracle_optimum.folder_for_transformers", as_it_is)
    found = compare_oracles(reference, optimum_runner(checkpoint, CACHE_LEN), WINDOWS)
    assert not found.agrees
    # At position 0 RoPE turns nothing; from 1 on theta matters.
    assert (found.first_window, found.first_position) == (0, 1)
    assert found.max_logit_error > 0.1


def test_chunks_and_steps_are_one_conversation(oracle: OptimumRunner) -> None:
    oracle.reset()
    whole = oracle.prefill(WINDOWS[0])
    assert (whole.shape, whole.dtype, oracle.position) == ((50, 160), np.float32, 50)
    oracle.reset()
    assert oracle.position == 0
    rows = [oracle.prefill(WINDOWS[0][:9]), oracle.prefill(WINDOWS[0][9:40])]
    rows += [oracle.decode(token)[None] for token in WINDOWS[0][40:]]
    assert relative_error(np.concatenate(rows), whole) <= 5e-5
    oracle.logits = "last"
    try:
        oracle.reset()
        assert relative_error(oracle.prefill(WINDOWS[0]), whole[-1:]) <= 5e-5
    finally:
        oracle.logits = "all"


def test_refuses_tokens(oracle: OptimumRunner) -> None:
    oracle.reset()
    oracle.prefill(WINDOWS[0])
    with pytest.raises(CacheFullError):
        oracle.prefill(WINDOWS[0])
    with pytest.raises(UsageError, match="160"):
        oracle.decode(160)
    assert oracle.position == 50


def test_is_quiet_and_leaves_nothing(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(checkpoint.folder.iterdir())
    runner = optimum_runner(checkpoint, CACHE_LEN)
    assert runner.prefill(WINDOWS[0]).shape == (50, 160)
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert sorted(checkpoint.folder.iterdir()) == before


def test_an_export_that_fails_is_one_line(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no such operator\nat line 1")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr("optimum.exporters.onnx.main_export", fail)
    with pytest.raises(CheckpointError, match=r"^tiny: optimum-onnx 0\.\S+ cannot export it: no such operator$"):
        optimum_runner(checkpoint, CACHE_LEN)
    assert not list(tmp_path.iterdir())
