"""The steps of `calibrated` on literal values, against their definitions, and by what they must not do."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from helium_edge.quant import METHODS, QuantizedWeight, dequantize
from helium_edge.quant.affine import code_range
from helium_edge.quant.calibrated import gptq
from helium_edge.quant.calibrated.gptq import round_gptq
from helium_edge.quant.calibrated.method import Calibrated
from helium_edge.quant.calibrated.refine import _Rows, refine
from helium_edge.quant.calibrated.statistics import (
    InputStatistics,
    collect,
    damped,
    inverse_factor,
    lower_factor,
    mean_squares,
)
from helium_edge.quant.calibrated.target import corrected_target
from helium_edge.quant.scale_search import search_scales
from helium_edge.recipe import Scheme
from tests.unit.quant.calibrated import plain
from tests.unit.quant.stores import A32, G32, INT8, assert_same

G128 = Scheme(bits=4, group_size=128)
PAIR = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
SCHEMES = [G32, Scheme(bits=4, group_size=64), G128, A32, INT8]


def factor(hessian: Tensor, damping: float) -> Tensor:
    return inverse_factor(hessian, damping).float()


def inputs(tokens: int, columns: int, seed: int = 0) -> Tensor:
    """Inputs as layers have them: channels that differ in size, and depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5
    sizes = torch.logspace(-1, 0.5, columns)
    return (torch.randn(tokens, columns, generator=generator) @ (torch.eye(columns) + mixing)) * sizes


def weights(rows: int, columns: int, seed: int = 1) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.3


def unit_scales(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gptq, "search_scales", lambda groups, *_: (torch.ones(groups.shape[:2]), None))


def test_gptq_makes_up_for_an_error_in_the_next_column(monkeypatch: pytest.MonkeyPatch) -> None:
    unit_scales(monkeypatch)
    target = torch.tensor([[0.4, 0.4]])
    found = round_gptq(target, factor(PAIR, 0.0), INT8)
    assert found.codes.tolist() == [[0, 1]]
    assert plain.loss(dequantize(found), target, PAIR) == pytest.approx(0.088)
    assert plain.loss(target.round(), target, PAIR) == pytest.approx(0.608)


def test_a_channel_that_the_text_does_not_use_keeps_its_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    unit_scales(monkeypatch)
    hessian = torch.diag(torch.tensor([2.0, 0.0]))
    assert damped(hessian, 0.01).diagonal().tolist() == pytest.approx([2.01, 0.01])
    found = round_gptq(torch.tensor([[0.4, 5.3]]), factor(hessian, 0.01), INT8)
    assert found.codes.tolist() == [[0, 5]]


def test_a_text_that_uses_nothing_rounds() -> None:
    target = weights(4, 64)
    found = Calibrated(0.1, 0)([target], InputStatistics(torch.zeros(64, 64)), G32)[0]
    assert_same(found, METHODS["mse"](target, G32))


def test_descent_on_literal_values() -> None:
    target = torch.tensor([[0.4, 0.4]])
    start = QuantizedWeight(INT8, torch.zeros(1, 2, dtype=torch.int8), torch.ones(1, 1))
    rows = _Rows(start, target, PAIR)
    assert rows.descend() == 1
    assert rows.codes().tolist() == [[1, 0]]
    assert plain.loss(rows.codes().float(), target, PAIR) == pytest.approx(0.088)
    assert rows.descend() == 0


@pytest.mark.parametrize(("coupling", "expected"), [(0.0, 0.578125), (0.5, 0.5703125)])
def test_refit_on_literal_values(coupling: float, expected: float) -> None:
    """0.58 and 4/7, as bfloat16 has them."""
    target, codes = torch.zeros(1, 32), torch.zeros(1, 32, dtype=torch.int8)
    target[0, :2], codes[0, :2] = torch.tensor([0.5, 1.2]), torch.tensor([1, 2], dtype=torch.int8)
    hessian = torch.eye(32)
    hessian[0, 1] = hessian[1, 0] = coupling
    rows = _Rows(QuantizedWeight(G32, codes, torch.tensor([[0.55078125]])), target, hessian)
    rows.refit()
    assert rows.scales.tolist() == [[expected]]


@pytest.mark.parametrize(("ridge", "expected"), [(0.0, 2.1124), (0.1, 2.1021)])
def test_target_on_literal_values(ridge: float, expected: float) -> None:
    found = collect(torch.tensor([[1.1], [1.8]]), torch.tensor([[1.0], [2.0]]))
    assert found.hessian.item() == pytest.approx(2.225)
    assert found.shift is not None
    assert found.shift.item() == pytest.approx(0.125)
    lower = lower_factor(damped(found.hessian, ridge))
    assert corrected_target(torch.tensor([[2.0]]), found, lower).item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("rows", [8, 200], ids=["few rows", "many rows"])
def test_target_is_the_least_squares_solution(rows: int) -> None:
    reference, weight = inputs(400, 48), weights(rows, 48)
    quantized = reference + 0.2 * inputs(400, 48, seed=2) @ weights(48, 48, seed=3)
    statistics = collect(quantized, reference)
    found = corrected_target(weight, statistics, lower_factor(damped(statistics.hessian, 0.5)))
    expected = plain.least_squares(weight, reference, quantized, 0.5)
    assert float((found - expected).abs().max()) < 1e-4
    assert float((weight - expected).abs().max()) > 0.01


def test_target_of_inputs_that_lost_nothing_is_the_weight() -> None:
    seen, weight = inputs(100, 32), weights(4, 32)
    lower = lower_factor(damped(collect(seen).hessian, 1.0))
    assert torch.equal(corrected_target(weight, collect(seen, seen), lower), weight)
    assert corrected_target(weight, collect(seen), lower) is weight


def test_moments_are_those_of_their_definition() -> None:
    seen = inputs(300, 600)
    found = collect(seen)
    assert torch.equal(found.hessian, found.hessian.T)
    expected = seen.double().T @ seen.double() / 300
    assert float((found.hessian - expected).abs().max() / expected.abs().max()) < 1e-6
    assert torch.allclose(mean_squares(seen), found.hessian.diagonal(), rtol=1e-5)


@pytest.mark.parametrize("scheme", [G32, G128, INT8], ids=str)
def test_gptq_is_optimal_brain_quantization(scheme: Scheme) -> None:
    columns = 64 if scheme.bits == 8 else 256  # int8 has more ties
    target, hessian = weights(6, columns), damped(collect(inputs(500, columns)).hessian, 0.1)

    def scales_of(part: Tensor, price: Tensor) -> Tensor:
        return search_scales(part.unsqueeze(1).contiguous(), scheme, price.unsqueeze(0).float())[0][:, 0]

    size = scheme.group_size or columns
    codes, scales = plain.optimal_brain_quantization(target, hessian, size, scales_of, *code_range(scheme))
    found = round_gptq(target, inverse_factor(hessian, 0.0).float(), scheme)
    # A tie that float32 breaks otherwise moves what follows in its row, and no other row.
    same = (found.codes == codes).all(dim=1) & (found.scales == scales).all(dim=1)
    assert int(same.sum()) >= 5


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_an_identity_makes_it_mse(scheme: Scheme) -> None:
    target = weights(50, 256)
    found = Calibrated(0.1, 0)([target], InputStatistics(torch.eye(256)), scheme)[0]
    assert_same(found, METHODS["mse"](target, scheme))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_no_step_raises_the_loss(scheme: Scheme) -> None:
    target, hessian = weights(40, 256), damped(collect(inputs(300, 256)).hessian, 0.1)
    rounded = plain.loss(dequantize(METHODS["mse"](target, scheme)), target, hessian)
    found = round_gptq(target, inverse_factor(hessian, 0.0).float(), scheme)
    losses = [rounded, plain.loss(dequantize(found), target, hessian)]
    rows = _Rows(found, target, hessian.float())
    for step in (rows.refit, rows.descend, rows.refit, rows.descend):
        step()
        weight = QuantizedWeight(scheme, rows.codes(), rows.scales.T.contiguous(), found.zero_points)
        losses.append(plain.loss(dequantize(weight), target, hessian))
    assert losses[1] < 0.9 * losses[0]
    assert losses[3] < losses[1]
    assert all(after <= before * (1 + 1e-5) for before, after in itertools.pairwise(losses[1:]))
    assert_same(refine(found, target, hessian.float(), 2), weight)
    low, high = code_range(scheme)
    assert low <= int(weight.codes.min())
    assert int(weight.codes.max()) <= high


@pytest.mark.parametrize("scheme", [G32, A32, INT8], ids=str)
def test_rows_do_not_know_of_each_other(scheme: Scheme) -> None:
    """Stacked in another order, and over several blocks of rows, matrices have the same codes."""
    seen = inputs(300, 64)
    statistics = collect(seen, seen + 0.1 * inputs(300, 64, seed=5))
    parts = [weights(rows, 64, seed=rows) for rows in (700, 30, 64)]
    method = Calibrated(0.1, 1)
    forward, backward = method(parts, statistics, scheme), method(parts[::-1], statistics, scheme)[::-1]
    for part, one, other in zip(parts, forward, backward, strict=True):
        assert one.shape == tuple(part.shape)
        assert float((one.codes == other.codes).all(dim=1).double().mean()) > 0.99


def test_threads_do_not_matter() -> None:
    seen = inputs(900, 256)
    part, found, threads = weights(1500, 256), [], torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            statistics = collect(seen, seen + 0.1 * inputs(900, 256, seed=5))
            found.append(Calibrated(0.1, 1)([part], statistics, G32)[0])
    finally:
        torch.set_num_threads(threads)
    assert_same(found[0], found[1])
