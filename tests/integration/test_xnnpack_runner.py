"""The ExecuTorch runner keeps the cache contract, with buckets and without, and refuses what does not fit."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from helium_edge.errors import BundleError, CacheFullError, UsageError
from helium_edge.evaluate.scorer import Request, Scorer
from helium_edge.parity.verdict import FLIPPED_CODE
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens, relative_error, roll

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from helium_edge.runtime import executorch_runner
from helium_edge.runtime.executorch_options import set_weight_cache
from helium_edge.runtime.executorch_runner import ExecutorchRunner
from tests.helpers.xnnpack import CACHE_LEN, PREFILL_LEN, XnnpackExport, export_xnnpack, rms_error, xnnpack_recipe

TOLERANCE = {"float32": 1e-4, "int8": FLIPPED_CODE}
BUCKETS, WIDTHS = [12, 24], [2, 5]
PREFILL = {width: f"prefill_{width}" for width in WIDTHS} | {PREFILL_LEN: "prefill"}
VARIANTS: dict[str, tuple[dict[int, str], dict[int, str] | None]] = {
    "one method each": ({}, None),
    "buckets": ({12: "decode_12", 24: "decode_24"}, PREFILL),
}


@pytest.fixture(scope="module", params=TOLERANCE)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> XnnpackExport:
    """With a float32 cache and with an int8 one."""
    root = tmp_path_factory.mktemp("runner")
    source = make_checkpoint(root / "checkpoint", seed=11, std=0.2)
    buckets = {"cache_buckets": [*BUCKETS, CACHE_LEN, 64], "prefill_buckets": [*WIDTHS, PREFILL_LEN, 64]}
    recipe = xnnpack_recipe("xnnpack-fp32", xnnpack=buckets, kv_cache=request.param)
    return export_xnnpack(source, recipe, root / "out")


@pytest.fixture
def tolerance(exported: XnnpackExport) -> float:
    return TOLERANCE[exported.recipe.kv_cache]


@pytest.fixture(params=VARIANTS)
def runner(request: pytest.FixtureRequest, exported: XnnpackExport) -> Iterator[ExecutorchRunner]:
    decode, prefill = VARIANTS[request.param]
    names = decode | {CACHE_LEN: "decode"}
    yield ExecutorchRunner(exported.path, exported.spec, names, prefill=prefill)
    gc.collect()


def test_buckets_are_methods_below_the_full_cache(exported: XnnpackExport) -> None:
    assert exported.decode == {12: "decode_12", 24: "decode_24", CACHE_LEN: "decode"}
    assert exported.prefill == PREFILL
    assert set(exported.program().methods) == {*PREFILL.values(), *exported.decode.values()}


def test_prefill_equals_decode_steps(runner: ExecutorchRunner, tolerance: float) -> None:
    tokens = random_tokens(30, runner.vocab_size)
    by_steps = roll(runner, tokens, [1], 29)
    for length in (1, 2, 7, 8, 9, 16, 17, 30):
        runner.reset()
        assert relative_error(runner.prefill(tokens[:length])[-1], by_steps[length - 1]) <= tolerance


@pytest.mark.parametrize("chunks", [[30], [8, 8, 8, 6], [1, 8, 2, 19], [13, 17], [29, 1]])
def test_any_chunking_is_one_chunk(runner: ExecutorchRunner, chunks: list[int], tolerance: float) -> None:
    tokens = random_tokens(36, runner.vocab_size, seed=1)
    whole = roll(runner, tokens, [30], 6)
    assert relative_error(roll(runner, tokens, chunks, 6)[-7:], whole) <= tolerance


def test_prefill_and_decode_take_turns(runner: ExecutorchRunner, tolerance: float) -> None:
    """Rows that prefill writes must reach the cache of the bucket in use, too."""
    tokens = random_tokens(30, runner.vocab_size, seed=7)
    expected = roll(runner, tokens, [1], 29)
    runner.reset()
    position = 0
    for prefill, steps in ((3, 2), (2, 3), (5, 4), (3, 8)):
        rows = [runner.prefill(tokens[position : position + prefill])[-1]]
        rows += [runner.decode(token) for token in tokens[position + prefill :][:steps]]
        first = position + prefill - 1
        assert relative_error(np.stack(rows), expected[first : first + len(rows)]) <= tolerance
        position += prefill + steps
    assert runner.position == 30


def test_choices_are_scored_over_a_rewound_cache(runner: ExecutorchRunner, tolerance: float) -> None:
    """Back over the border of a bucket, into the one before and out again; with an int8 cache too."""
    tokens = random_tokens(30, runner.vocab_size, seed=9)
    choices = [tuple(random_tokens(length, runner.vocab_size, seed=length)[1:]) for length in (2, 4, 5, 9)]
    contexts = [tuple(tokens[:length]) for length in (26, 10, 22, 9, 12, 23, 4)]
    requests = [Request(context, choice) for context in contexts for choice in choices]
    scorer, plain = Scorer(runner, "last"), Scorer(runner, "last", reuse=False)
    found = scorer.score(requests)
    runner.reset()
    expected = plain.score(requests)
    off = [abs(one.log_probability - other.log_probability) for one, other in zip(found, expected, strict=True)]
    # Nats of up to eight tokens; logits of this model have an rms of about 1.
    assert max(off) <= 40 * tolerance
    assert scorer.counts.fed < plain.counts.fed / 2


def test_a_second_conversation_knows_nothing_of_the_first(runner: ExecutorchRunner) -> None:
    first, second = (random_tokens(20, runner.vocab_size, seed) for seed in (2, 3))
    fresh = roll(runner, second, [11], 9)
    roll(runner, first[::-1], [5], 15)
    runner.prefill(random_tokens(CACHE_LEN - 20, runner.vocab_size, 4))
    assert np.array_equal(roll(runner, second, [11], 9), fresh)


def test_a_second_conversation_in_the_same_bucket(
    runner: ExecutorchRunner, exported: XnnpackExport, tolerance: float
) -> None:
    first, second = (random_tokens(10, runner.vocab_size, seed) for seed in (2, 3))
    fresh = roll(exported.runner(), second, [3], 4)
    roll(runner, first, [5], 5)
    assert relative_error(roll(runner, second, [3], 4), fresh) <= tolerance


def test_a_full_cache_refuses_and_stays_intact(runner: ExecutorchRunner, tolerance: float) -> None:
    tokens = random_tokens(CACHE_LEN, runner.vocab_size, seed=5)
    expected = roll(runner, tokens, [1], CACHE_LEN - 1)
    # prefill cannot pad the last chunk past the end: its tail is decoded.
    assert relative_error(roll(runner, tokens, [CACHE_LEN - 5, 5], 0)[-1], expected[-1]) <= tolerance
    assert runner.position == CACHE_LEN
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
        assert relative_error(runner.decode(token), row) <= tolerance


def test_a_step_writes_its_own_slots_only(runner: ExecutorchRunner) -> None:
    tokens = random_tokens(12, runner.vocab_size, seed=6)
    runner.prefill(tokens[:5])
    changed = [np.flatnonzero(buffer.any(axis=(0, 2))).tolist() for buffer in runner.cache_buffers]
    assert all(slots == [0, 1, 2, 3, 4] for slots in changed)  # of a padded chunk of 8
    runner.decode(tokens[8])
    changed = [np.flatnonzero(buffer.any(axis=(0, 2))).tolist() for buffer in runner.cache_buffers]
    assert all(slots == [0, 1, 2, 3, 4, 5] for slots in changed)


def test_logits_belong_to_the_caller(runner: ExecutorchRunner) -> None:
    first = runner.prefill([1, 5, 9])
    kept = first.copy()
    runner.decode(4)
    runner.prefill([3, 2])
    assert np.array_equal(first, kept)
    row = runner.decode(8)
    kept = row.copy()
    runner.decode(9)
    assert np.array_equal(row, kept)


@pytest.mark.parametrize("tokens", [[], [-1], [10**6]])
def test_bad_tokens_are_refused(runner: ExecutorchRunner, tokens: list[int]) -> None:
    with pytest.raises(UsageError):
        runner.prefill(tokens)
    assert runner.position == 0


def test_the_shortest_bucket_that_fits_is_used(exported: XnnpackExport, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = exported.runner()
    used: list[int] = []
    real = runner._cache_of

    def cache_of(slots: int, width: int) -> object:
        used.append(slots)
        return real(slots, width)

    monkeypatch.setattr(runner, "_cache_of", cache_of)
    roll(runner, random_tokens(CACHE_LEN, runner.vocab_size), [1], CACHE_LEN - 1)
    assert used == [12] * 12 + [24] * 12 + [CACHE_LEN] * 24


def test_a_stale_bucket_would_show(exported: XnnpackExport) -> None:
    """The fault that the tests above are about: a bucket that misses the rows of a prefill."""
    tokens = random_tokens(11, exported.spec.vocab_size, seed=8)
    expected = roll(exported.runner(), tokens, [10], 1)[-1]
    runner = exported.runner()
    runner.prefill(tokens[:4])
    runner.decode(tokens[4])
    runner.prefill(tokens[5:10])
    runner._synced = runner.position
    assert relative_error(runner.decode(tokens[10]), expected) > 0.01


def test_all_logits(exported: XnnpackExport, tmp_path: Path, tolerance: float) -> None:
    recipe = xnnpack_recipe("xnnpack-fp32", logits="all", kv_cache=exported.recipe.kv_cache)
    every = export_xnnpack(exported.checkpoint.folder, recipe, tmp_path / "all").runner()
    tokens = random_tokens(21, every.vocab_size, seed=9)
    rows = every.prefill(tokens)
    assert rows.shape == (21, every.vocab_size)
    assert relative_error(rows, roll(exported.runner(), tokens, [1], 20)) <= tolerance


# -- loading


def test_a_program_of_other_shapes_is_refused(exported: XnnpackExport) -> None:
    def runner(**changes: int) -> ExecutorchRunner:
        spec = dataclasses.replace(exported.spec, **changes)
        return ExecutorchRunner(exported.path, spec, exported.decode)

    with pytest.raises(
        BundleError, match=r"method prefill: input 0 is \(1, 8\).*manifest says input_ids \(1, 16\)"
    ):
        runner(prefill_len=16)
    with pytest.raises(BundleError, match=r"method prefill: output 0 .* logits \(1, 1, 161\)"):
        runner(vocab_size=161)
    layers = dataclasses.replace(exported.spec.cache, layers=3)
    with pytest.raises(BundleError, match="method prefill: 7 inputs, the manifest says 9"):
        ExecutorchRunner(exported.path, dataclasses.replace(exported.spec, cache=layers), exported.decode)
    with pytest.raises(BundleError, match=r"method decode_12: input 2 is \(2, 12, 16\)"):
        ExecutorchRunner(exported.path, exported.spec, {16: "decode_12", CACHE_LEN: "decode"})


def test_missing_methods_are_named(exported: XnnpackExport) -> None:
    with pytest.raises(BundleError, match=r"decoder\.pte: no method decode_9; it has .*decode, decode_12"):
        ExecutorchRunner(exported.path, exported.spec, {9: "decode_9", CACHE_LEN: "decode"})
    with pytest.raises(BundleError, match="no decode method for the full cache of 48 slots"):
        ExecutorchRunner(exported.path, exported.spec, {12: "decode_12"})


def test_threads_are_of_the_process(exported: XnnpackExport) -> None:
    gc.collect()
    first = exported.runner(threads=1)
    with pytest.raises(UsageError, match=r"2 threads: .* one thread pool in a process, .* with 1"):
        exported.runner(threads=2)
    same = exported.runner(threads=1)
    tokens = random_tokens(12, first.vocab_size)
    assert np.array_equal(roll(first, tokens, [6], 6), roll(same, tokens, [6], 6))
    del first, same
    gc.collect()
    exported.runner(threads=2)


def test_weights_are_packed_once_for_all_methods(exported: XnnpackExport, monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    calls: list[bool] = []

    def record(*, enabled: bool) -> bool:
        calls.append(enabled)
        return set_weight_cache(enabled=enabled)

    monkeypatch.setattr(executorch_runner, "set_weight_cache", record)
    first = exported.runner()
    assert calls == [True, False]
    second = exported.runner()
    assert calls == [True, False]  # one program at a time: the cache would mix them up
    tokens = random_tokens(12, first.vocab_size)
    assert np.array_equal(roll(first, tokens, [6], 6), roll(second, tokens, [6], 6))
    del first, second
    gc.collect()
    exported.runner()
    assert calls == [True, False] * 2


def test_the_option_reaches_the_backend() -> None:
    assert set_weight_cache(enabled=True)
    assert set_weight_cache(enabled=False)


def test_programs_with_equal_codes_keep_their_scales(tmp_path: Path) -> None:
    """A checkpoint times two has the same codes; the backend's weight cache alone would not tell them apart."""
    from safetensors.torch import load_file, save_file

    recipe = xnnpack_recipe("xnnpack-int8")
    sources = [
        make_checkpoint(tmp_path / f"checkpoint-{factor}", seed=2, std=0.1, num_hidden_layers=1)
        for factor in (1, 2)
    ]
    weights = load_file(sources[1] / "model.safetensors")
    weights = {name: weight * (2 if "lm_head" in name else 1) for name, weight in weights.items()}
    save_file(weights, sources[1] / "model.safetensors", metadata={"format": "pt"})
    exports = [export_xnnpack(source, recipe, tmp_path / f"out-{i}") for i, source in enumerate(sources)]
    runners = [export.runner() for export in exports]
    tokens = random_tokens(12, runners[0].vocab_size)
    once, twice = (roll(runner, tokens, [8], 4) for runner in runners)
    assert rms_error(twice, 2 * once) <= 1e-6


@pytest.mark.parametrize("threads", [0, 2])
def test_nothing_is_printed(exported: XnnpackExport, threads: int) -> None:
    """In a process of its own, since libraries are chatty when they are imported; warnings are errors there."""
    script = f"""
from pathlib import Path
from helium_edge.runtime.executorch_runner import ExecutorchRunner
from helium_edge.signature import CacheSpec, DecoderSpec
cache = CacheSpec(2, 2, {CACHE_LEN}, 16, "append", batched=False, dtype={exported.spec.cache.dtype!r})
spec = DecoderSpec(160, cache, {PREFILL_LEN})
runner = ExecutorchRunner(Path({str(exported.path)!r}), spec, {exported.decode!r}, threads={threads})
runner.prefill([1, 5, 9])
runner.decode(4)
"""
    command = [sys.executable, "-W", "error", "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")


def test_memory_of_the_cache_is_taken_as_it_fills(exported: XnnpackExport) -> None:
    """Torch and numpy see the same pages: what the host writes is what the method reads."""
    runner = exported.runner()
    for array, tensor in zip(runner._full.arrays, runner._full.tensors, strict=True):
        assert torch.from_numpy(array).data_ptr() == tensor.data_ptr()
