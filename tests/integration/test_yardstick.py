"""The yardstick of level L1 on real graphs: it rounds as their kernels do, follows ties, and nothing but ties."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from helium_edge.errors import BundleError
from helium_edge.model.weights import layer_name
from helium_edge.parity.emulation import TIE, EmulatedLinear, Ledger
from helium_edge.parity.rollout import Step, decode_step, prefill_step
from helium_edge.parity.trace import Tracer
from helium_edge.parity.verdict import NOISE
from helium_edge.parity.yardstick import Agreement, Yardstick
from helium_edge.quant.activations import Arithmetic, Codes, PerBlock
from helium_edge.targets import load_target
from helium_edge.targets.debug import DebugCall
from helium_edge.targets.onnx.debug import OnnxDebug
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import CACHE_LEN, PREFILL_LEN, Exported, export_graphs, random_tokens, small_recipe

# std 0.1 is near 1/sqrt(hidden_size): the attention is not saturated, so that rounding is not amplified.
MODEL = {"seed": 5, "std": 0.1, "hidden_size": 128, "head_dim": 32, "intermediate_size": 192}
CONVERSATIONS = 8


@pytest.fixture(scope="module")
def int4(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("yardstick")
    # A head that rounds in wide blocks would swallow what a single code moves.
    recipe = small_recipe("onnx-int4", onnx={"int8_block_size": 32})
    return export_graphs(make_checkpoint(root / "c", **MODEL), recipe, root / "o")


def arithmetic(exported: Exported) -> Arithmetic:
    return load_target("onnx").arithmetic(exported.recipe, exported.store.plan)


def tracer(exported: Exported, *, static: bool = False) -> Tracer:
    def load() -> list[OnnxDebug]:
        folder, config, cache = exported.folder, exported.checkpoint.config, exported.spec.cache
        if not static:
            return [OnnxDebug(folder, "decoder.onnx", config, cache, ("prefill", "decode"), None)]
        return [
            OnnxDebug(folder, "prefill.onnx", config, cache, ("prefill",), PREFILL_LEN),
            OnnxDebug(folder, "decode.onnx", config, cache, ("decode",), 1),
        ]

    return Tracer(load, exported.checkpoint.config, PREFILL_LEN, CACHE_LEN)


def tracing(exported: Exported, *, static: bool = False) -> Yardstick:
    return Yardstick(exported.store, arithmetic(exported), CACHE_LEN, tracer=tracer(exported, static=static))


def steps(exported: Exported, *, static: bool = False) -> list[Step]:
    """Conversations of a ragged prompt and decode steps; the caches are copied, since the runner writes on."""
    runner = exported.runner(static=static)
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


@pytest.mark.parametrize("static", [False, True])
def test_every_row_agrees_to_noise(int4: Exported, static: bool) -> None:
    agreement = compare(tracing(int4, static=static), steps(int4, static=static))
    assert np.median(agreement.worst) < 1e-6
    assert agreement.worst.max() <= NOISE


def test_ties_are_why_rows_differ(int4: Exported) -> None:
    """Without the trace some rows are off, by one or two activations each that lie between two codes."""
    found = steps(int4)
    traced = compare(tracing(int4), found)
    plain = compare(Yardstick(int4.store, arithmetic(int4), CACHE_LEN), found)
    off = plain.worst > NOISE
    assert 0 < off.mean() < 0.2
    assert traced.worst[off].max() <= NOISE
    assert 0 < traced.ties.max() <= 3


class Blind(Tracer):
    """Sees nothing."""

    def __init__(self) -> None: ...

    def inputs(self, step: Step, rows: Sequence[int]) -> dict[int, torch.Tensor]:
        raise BundleError("nothing to see")


def test_ties_that_no_trace_shows_are_searched_for_and_nothing_else_is_turned(int4: Exported) -> None:
    blind = Yardstick(int4.store, arithmetic(int4), CACHE_LEN, tracer=Blind())
    found = [
        Step(step.start + at, step.tokens[at : at + 4], step.logits[at : at + 4], step.cache, "decode")
        for step in steps(int4)[1::2]
        for at in range(0, len(step.tokens), 4)
    ]
    plain = compare(Yardstick(int4.store, arithmetic(int4), CACHE_LEN), found)
    searched = compare(blind, found)
    off = plain.worst > NOISE
    assert off.any()
    assert searched.worst.max() <= NOISE
    assert 0 < searched.ties[off].max() <= 3
    assert not searched.ties[~off].any()
    wrong = [dataclasses.replace(step, logits=step.logits * 1.01) for step in found]
    assert compare(blind, wrong).worst.min() > 5e-3


def test_the_trace_is_what_the_runtime_had(int4: Exported) -> None:
    """The last values that are traced give the runtime's own logits to the last bit of a float32 product."""
    step = steps(int4)[1]
    head = 4 * int4.checkpoint.config.num_hidden_layers
    (program,) = tracer(int4)._load()
    norm = tracer(int4).inputs(step, [7])[head].numpy()
    call = DebugCall(np.asarray(step.tokens[7:8], np.int64), step.start + 7)
    logits = program.end(call, {"norm": norm, "residual": norm, "delta": norm}, cut=True)["logits"]
    assert np.array_equal(logits[-1], step.logits[7])


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
    agreement = compare(tracing(int4), broken)
    assert np.nanmin(agreement.logits) > size / 2


PRODUCT, COLUMN, BLOCK = 0, 5, 32


@dataclasses.dataclass(frozen=True)
class OneOff(PerBlock):
    """A kernel that rounds one activation to the next code."""

    def codes(self, x: torch.Tensor) -> Codes:
        codes = super().codes(x)
        codes.rounded[:, COLUMN] -= torch.where(codes.rounded[:, COLUMN] > 0, 1, -1)
        return codes


def test_one_wrong_code_is_no_tie(int4: Exported) -> None:
    """The smallest bug that there is: one activation of one product, one code off.

    How far that moves a row depends on the scale of its block. Whatever it is, all of it is reported; in the few
    rows that have a tie somewhere else, most of it.
    """
    rules = dict(arithmetic(int4).rules)
    name = layer_name(int4.checkpoint.config.num_hidden_layers - 1, "mlp.down_proj.weight")
    rules[name] = OneOff(BLOCK)
    wrong = Yardstick(int4.store, Arithmetic("wrong", rules), CACHE_LEN)
    # Logits as they would be if that were the kernel.
    found = steps(int4)
    broken = [dataclasses.replace(step, logits=wrong.compare(step).expected) for step in found]
    honest, agreement = (compare(tracing(int4), part) for part in (found, broken))
    right = compare(Yardstick(int4.store, arithmetic(int4), CACHE_LEN), found).expected
    logits = np.concatenate([step.logits for step in broken])
    moved = np.sqrt(np.square(logits - right).mean(axis=1) / np.square(right).mean(axis=1))
    returned = ~np.isnan(agreement.logits)
    reported, tied = agreement.logits[returned], agreement.ties[returned] > 0
    assert moved.min() > 50 * np.nanmax(honest.logits)
    assert np.median(reported) > 10 * NOISE
    np.testing.assert_allclose(reported[~tied], moved[~tied], rtol=0.01)
    assert (reported[tied] > 0.5 * moved[tied]).all()
    assert tied.mean() < 0.05


def planted(x: torch.Tensor, distance: float) -> torch.Tensor:
    """One activation moved to where it is `distance` codes past the middle between two codes."""
    scale = x[:, :BLOCK].abs().amax(dim=1) / 127
    moved = x.clone()
    moved[:, COLUMN] = ((x[:, COLUMN] / scale).floor() + 0.5 + distance) * scale
    return moved


@pytest.mark.parametrize(("distance", "explained"), [(TIE / 2, True), (2 * TIE, False), (0.2, False)])
def test_a_flip_is_followed_at_a_tie_alone(int4: Exported, distance: float, explained: bool) -> None:
    """The yardstick stands `distance` past the middle, the runtime has rounded down all the same."""
    ledger = Ledger()
    layer = EmulatedLinear(torch.eye(2 * BLOCK), None, (PerBlock(BLOCK),), ledger, PRODUCT)
    own = torch.randn((4, 2 * BLOCK), generator=torch.Generator().manual_seed(0))
    own[:, 0] = 9.0  # what sets the scale is no tie
    own = planted(own, distance)
    before = layer(own)
    ledger.traced = {PRODUCT: planted(own, -TIE / 4)}
    ledger.ties = torch.zeros(4, dtype=torch.int64)
    changed = (layer(own) != before).nonzero().tolist()
    assert changed == ([[row, COLUMN] for row in range(4)] if explained else [])
    assert ledger.ties.tolist() == [int(explained)] * 4


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


def test_other_processors_are_emulated_over_the_same_weights(int4: Exported) -> None:
    elsewhere = {"here": arithmetic(int4), "float": Arithmetic("float32", {})}
    yardstick = Yardstick(int4.store, arithmetic(int4), CACHE_LEN, elsewhere=elsewhere)
    errors: dict[str, list[float]] = {"here": [], "float": []}
    runner = int4.runner()
    # One token each: a tie of any token before would live on in the cache.
    for token in random_tokens(12, int4.spec.vocab_size):
        runner.reset()
        row = runner.decode(token)
        for name, found in errors.items():
            gap = yardstick.logits_elsewhere([token], name)[0] - row
            found.append(float(np.sqrt(np.square(gap).mean() / np.square(row).mean())))
    assert np.median(errors["here"]) < 1e-6 < 1e-3 < min(errors["float"])
    tokens = random_tokens(30, int4.spec.vocab_size)
    assert np.array_equal(yardstick.logits_elsewhere(tokens, "float"), yardstick.plain_logits(tokens))
    # And this processor is the one that is followed again.
    assert np.median(compare(yardstick, steps(int4)).worst) < 1e-6


def test_float32_graphs_agree_without_ties(tmp_path: Path) -> None:
    exported = export_graphs(make_checkpoint(tmp_path / "c", **MODEL), small_recipe("onnx-fp32"), tmp_path / "o")
    yardstick = tracing(exported)
    assert not yardstick.traces
    assert compare(yardstick, steps(exported)).worst.max() < 1e-5
