"""The yardstick of level L1 on real graphs: it rounds as their kernels do, explains ties, and nothing but ties."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from helium_edge.parity.emulation import Arithmetic, arithmetic_of
from helium_edge.parity.rollout import Step, decode_step, prefill_step
from helium_edge.parity.verdict import NOISE
from helium_edge.parity.yardstick import Agreement, Yardstick
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import CACHE_LEN, Exported, export_graphs, random_tokens, small_recipe

# std 0.1 is near 1/sqrt(hidden_size): the attention is not saturated, so that rounding is not amplified.
MODEL = {"seed": 5, "std": 0.1, "hidden_size": 128, "head_dim": 32, "intermediate_size": 192}
CONVERSATIONS = 8


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("yardstick")
    return export_graphs(make_checkpoint(root / "c", **MODEL), small_recipe("onnx-int4"), root / "o")


def arithmetic(exported: Exported) -> Arithmetic:
    return arithmetic_of("onnx", exported.recipe, exported.store.plan)


def steps(exported: Exported) -> list[Step]:
    """Conversations of a ragged prompt and decode steps; the caches are copied, since the runner writes on."""
    runner = exported.runner()
    found = []
    for seed in range(CONVERSATIONS):
        tokens = random_tokens(CACHE_LEN, runner.vocab_size, seed)
        runner.reset()
        found.append(_kept(prefill_step(runner, tokens[:11], 0)))
        found.append(_kept(decode_step(runner, tokens[11:], 11)))
    return found


def _kept(step: Step) -> Step:
    return dataclasses.replace(step, cache=[array.copy() for array in step.cache])


def compare(yardstick: Yardstick, found: list[Step]) -> Agreement:
    parts = [yardstick.compare(step) for step in found]
    return Agreement(
        *(np.concatenate([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(Agreement))
    )


def test_rows_agree_to_noise_once_ties_are_resolved(int4: Exported) -> None:
    yardstick = Yardstick(int4.store, arithmetic(int4), CACHE_LEN)
    assert yardstick.searches
    agreement = compare(yardstick, steps(int4))
    assert np.median(agreement.worst) < 1e-6
    assert (agreement.worst <= NOISE).mean() >= 0.98


def test_ties_are_why_rows_differ(int4: Exported) -> None:
    """The search does something, and rows that need none are as near without it."""
    found = steps(int4)
    searched = Yardstick(int4.store, arithmetic(int4), CACHE_LEN)
    plain = Yardstick(int4.store, arithmetic(int4), CACHE_LEN)
    plain.searches = False
    with_ties, without = compare(searched, found), compare(plain, found)
    assert with_ties.ties.sum() > 0
    assert (with_ties.worst <= NOISE).sum() > (without.worst <= NOISE).sum()
    assert np.array_equal(without.worst[with_ties.ties == 0], with_ties.worst[with_ties.ties == 0])


def test_without_the_rounding_of_the_kernel_every_row_differs(int4: Exported) -> None:
    """Hence the emulation: float32 activations are a per cent off, which is what bugs would hide behind."""
    yardstick = Yardstick(int4.store, Arithmetic("float32", {}), CACHE_LEN)
    assert compare(yardstick, steps(int4)).worst.min() > 10 * NOISE


@pytest.mark.parametrize("size", [1e-3, 1e-2])
def test_ties_explain_no_bug(int4: Exported, size: float) -> None:
    """A fault as small as one flip is explained by none."""
    generator = np.random.default_rng(0)
    broken = []
    for step in steps(int4):
        noise = generator.standard_normal(step.logits.shape) * np.sqrt(np.square(step.logits).mean())
        broken.append(dataclasses.replace(step, logits=(step.logits + size * noise).astype(np.float32)))
    agreement = compare(Yardstick(int4.store, arithmetic(int4), CACHE_LEN), broken)
    assert np.nanmin(agreement.logits) > size / 2


def test_a_wrong_cache_row_is_found_where_it_is(int4: Exported) -> None:
    step = steps(int4)[1]
    cache = [array.copy() for array in step.cache]
    cache[3][..., 20, :] = cache[3][..., 21, :]  # the value row of layer 1 at position 20
    agreement = Yardstick(int4.store, arithmetic(int4), CACHE_LEN).compare(dataclasses.replace(step, cache=cache))
    assert agreement.rows[20 - step.start] > 0.1
    assert np.median(agreement.rows) < 1e-6


def test_slots_that_hold_nothing_are_not_read(int4: Exported) -> None:
    step = steps(int4)[0]
    cache = [array.copy() for array in step.cache]
    for array in cache:
        array[..., step.end :, :] = np.nan
    yardstick = Yardstick(int4.store, arithmetic(int4), CACHE_LEN)
    assert np.nanmax(yardstick.compare(dataclasses.replace(step, cache=cache)).worst) < 0.1


def test_plain_logits_are_those_of_the_torch_decoder(int4: Exported) -> None:
    yardstick = Yardstick(int4.store, arithmetic(int4), CACHE_LEN)
    tokens = random_tokens(30, int4.spec.vocab_size)
    expected = int4.torch_runner().prefill(tokens)
    np.testing.assert_allclose(
        yardstick.plain_logits(tokens), expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )
    # And the rounding is on again.
    assert np.median(compare(yardstick, steps(int4)).worst) < 1e-6


def test_float32_graphs_agree_without_ties(tmp_path: Path) -> None:
    exported = export_graphs(make_checkpoint(tmp_path / "c", **MODEL), small_recipe("onnx-fp32"), tmp_path / "o")
    yardstick = Yardstick(exported.store, arithmetic(exported), CACHE_LEN)
    assert not yardstick.searches
    assert compare(yardstick, steps(exported)).worst.max() < 1e-5
