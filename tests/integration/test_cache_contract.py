"""The cache contract on real graphs: chunks, padding, new conversations change nothing; a full cache refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helium_edge.errors import CacheFullError, UsageError
from helium_edge.runtime.onnx_runner import OnnxRunner
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import (
    CACHE_LEN,
    Exported,
    export_graphs,
    random_tokens,
    relative_error,
    roll,
    small_recipe,
)

TOLERANCE = 1e-4
VARIANTS = {
    "contrib, any": ("onnx-fp32", "contrib", False),
    "contrib, static": ("onnx-fp32", "contrib", True),
    "portable, any": ("onnx-fp32", "portable", False),
    "portable, static": ("onnx-fp32", "portable", True),
    "int4, any": ("onnx-int4", "contrib", False),
    "int4, static": ("onnx-int4", "contrib", True),
}


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Exported]:
    root = tmp_path_factory.mktemp("contract")
    source = make_checkpoint(root / "checkpoint", seed=11, std=0.2, intermediate_size=96)
    return {
        (recipe, dialect): export_graphs(
            source, small_recipe(recipe, onnx={"dialect": dialect}), root / f"{recipe}-{dialect}"
        )
        for recipe, dialect in {variant[:2] for variant in VARIANTS.values()}
    }


@pytest.fixture(params=VARIANTS)
def runner(request: pytest.FixtureRequest, exports: dict[tuple[str, str], Exported]) -> OnnxRunner:
    recipe, dialect, static = VARIANTS[request.param]
    return exports[recipe, dialect].runner(static=static)


def test_prefill_equals_decode_steps(runner: OnnxRunner) -> None:
    tokens = random_tokens(30, runner.vocab_size)
    by_steps = roll(runner, tokens, [1], 29)
    for length in (1, 2, 7, 8, 9, 16, 17, 30):
        runner.reset()
        assert relative_error(runner.prefill(tokens[:length])[-1], by_steps[length - 1]) <= TOLERANCE


@pytest.mark.parametrize("chunks", [[30], [8, 8, 8, 6], [1, 8, 2, 19], [13, 17], [29, 1]])
def test_any_chunking_is_one_chunk(runner: OnnxRunner, chunks: list[int]) -> None:
    tokens = random_tokens(36, runner.vocab_size, seed=1)
    whole = roll(runner, tokens, [30], 6)
    assert relative_error(roll(runner, tokens, chunks, 6)[-7:], whole) <= TOLERANCE


def test_a_second_conversation_knows_nothing_of_the_first(
    runner: OnnxRunner, exports: dict[tuple[str, str], Exported]
) -> None:
    first, second = (random_tokens(20, runner.vocab_size, seed) for seed in (2, 3))
    fresh = roll(runner, second, [11], 9)
    roll(runner, first[::-1], [20], 0)
    runner.prefill(random_tokens(CACHE_LEN - 20, runner.vocab_size, 4))
    assert np.array_equal(roll(runner, second, [11], 9), fresh)


def test_a_full_cache_refuses_and_stays_intact(runner: OnnxRunner) -> None:
    tokens = random_tokens(CACHE_LEN, runner.vocab_size, seed=5)
    expected = roll(runner, tokens, [1], CACHE_LEN - 1)
    # The static prefill cannot pad the last chunk past the end: its tail is decoded.
    assert relative_error(roll(runner, tokens, [CACHE_LEN - 5, 5], 0)[-1], expected[-1]) <= TOLERANCE
    assert runner.position == CACHE_LEN
    before = [buffer.copy() for buffer in runner.cache_buffers]
    with pytest.raises(CacheFullError, match=f"{CACHE_LEN} slots, {CACHE_LEN} are taken"):
        runner.decode(7)
    runner.reset()
    runner.prefill(tokens[:-3])
    before = [buffer.copy() for buffer in runner.cache_buffers]
    with pytest.raises(CacheFullError):
        runner.prefill(tokens[:4])
    assert runner.position == CACHE_LEN - 3
    assert all(np.array_equal(a, b) for a, b in zip(before, runner.cache_buffers, strict=True))
    for token, row in zip(tokens[-3:], expected[-3:], strict=True):
        assert relative_error(runner.decode(token), row) <= TOLERANCE


def test_a_step_writes_its_own_slots_only(runner: OnnxRunner) -> None:
    """An off-by-one would show in a slot that no call owns yet, or in one that an earlier call owned."""
    tokens = random_tokens(12, runner.vocab_size, seed=6)
    runner.prefill(tokens[:8])
    before = [buffer.copy() for buffer in runner.cache_buffers]
    runner.decode(tokens[8])
    for old, new in zip(before, runner.cache_buffers, strict=True):
        changed = np.flatnonzero((old != new).any(axis=(0, 1, 3)))
        assert changed.tolist() == [8]


@pytest.mark.parametrize("tokens", [[], [-1], [10**6]])
def test_bad_tokens_are_refused(runner: OnnxRunner, tokens: list[int]) -> None:
    with pytest.raises(UsageError):
        runner.prefill(tokens)
    assert runner.position == 0


def test_all_logits(exports: dict[tuple[str, str], Exported], tmp_path: Path) -> None:
    """A recipe with `logits: all` returns the row of every token, padding excluded."""
    source = exports["onnx-fp32", "contrib"].checkpoint.folder
    for dialect in ("contrib", "portable"):
        recipe = small_recipe("onnx-fp32", logits="all", onnx={"dialect": dialect})
        exported = export_graphs(source, recipe, tmp_path / dialect)
        tokens = random_tokens(21, exported.spec.vocab_size)
        expected = exported.torch_runner().prefill(tokens)
        for static in (False, True):
            found = exported.runner(static=static).prefill(tokens)
            assert found.shape == expected.shape
            assert relative_error(found, expected) <= TOLERANCE
