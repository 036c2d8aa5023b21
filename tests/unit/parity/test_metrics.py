"""Metrics against formulas written down a second time, in plain Python arithmetic of high precision."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional

from helium_edge.errors import ParityError
from helium_edge.parity import statistics
from helium_edge.parity.metrics import Positions, compare_rows
from helium_edge.parity.statistics import Aggregate
from helium_edge.schemas import significant

NEAR_TIE = 1e-3
aggregate = partial(statistics.aggregate, near_tie=NEAR_TIE)


def exact_log_softmax(row: np.ndarray) -> list[Decimal]:
    """By the definition, in 60 digits: no shift, no float."""
    with localcontext() as context:
        context.prec = 60
        values = [Decimal(float(x)) for x in row]
        total = sum((x.exp() for x in values), Decimal(0))
        return [x - total.ln() for x in values]


def exact_kld(reference: np.ndarray, candidate: np.ndarray) -> float:
    with localcontext() as context:
        context.prec = 60
        ref, cand = exact_log_softmax(reference), exact_log_softmax(candidate)
        return float(sum((r.exp() * (r - c) for r, c in zip(ref, cand, strict=True)), Decimal(0)))


def rows(count: int, vocab: int = 40, *, scale: float = 3.0, seed: int = 0) -> np.ndarray:
    return (scale * np.random.default_rng(seed).standard_normal((count, vocab))).astype(np.float32)


@pytest.mark.parametrize("noise", [1e-5, 1e-2, 1.0, 10.0])
@pytest.mark.parametrize("shift", [0.0, 1000.0, -5000.0])
def test_per_position_values(noise: float, shift: float) -> None:
    reference = rows(5) + np.float32(shift)
    candidate = (reference + noise * rows(5, scale=1.0, seed=1)).astype(np.float32)
    targets = [3, 0, 39, 17, 8]
    found = compare_rows(reference, candidate, targets)
    for i, target in enumerate(targets):
        assert found.kld[i] == pytest.approx(exact_kld(reference[i], candidate[i]), abs=1e-9, rel=1e-9)
        ref, cand = exact_log_softmax(reference[i])[target], exact_log_softmax(candidate[i])[target]
        assert found.nll_reference[i] == pytest.approx(-float(ref), abs=1e-9)
        assert found.nll_candidate[i] == pytest.approx(-float(cand), abs=1e-9)
        assert found.delta_p[i] == pytest.approx(math.exp(cand) - math.exp(ref), abs=1e-9)
        values = sorted(map(float, reference[i]))
        assert found.margin[i] == values[-1] - values[-2]
        delta = [float(c) - float(r) for r, c in zip(reference[i], candidate[i], strict=True)]
        assert found.max_error[i] == max(map(abs, delta))
        assert found.mean_square_error[i] == pytest.approx(sum(d * d for d in delta) / 40)
        assert found.mean_square[i] == pytest.approx(sum(float(r) ** 2 for r in reference[i]) / 40)
        assert found.agrees[i] == (max(range(40), key=lambda k: candidate[i][k]) == int(reference[i].argmax()))
    assert found.finite.all()


def test_direction_of_the_divergence() -> None:
    """KL(reference || candidate), not the other way round: the two differ."""
    reference = np.array([[0.0, 0.0, -9.0]], np.float32)
    candidate = np.array([[0.0, -4.0, -1.0]], np.float32)
    forward, backward = exact_kld(reference[0], candidate[0]), exact_kld(candidate[0], reference[0])
    assert abs(forward - backward) > 0.5
    assert compare_rows(reference, candidate, [0]).kld[0] == pytest.approx(forward, abs=1e-12)


def test_tiny_divergences_are_resolved() -> None:
    """The fp32 gate is 1e-7 nats; float32 arithmetic would drown it in rounding."""
    reference = rows(1, 4096)
    candidate = reference + np.float32(1e-4) * rows(1, 4096, scale=1.0, seed=2)
    exact = exact_kld(reference[0], candidate[0])
    assert 1e-10 < exact < 1e-7
    assert compare_rows(reference, candidate, [0]).kld[0] == pytest.approx(exact, rel=1e-5)


def test_extreme_logits() -> None:
    reference = np.array([[3e38, -3e38, 0.0], [1e4, -1e4, 0.0], [-80.0, -80.0, -80.0]], np.float32)
    candidate = np.array([[3e38, 0.0, -3e38], [-1e4, 1e4, 0.0], [800.0, 0.0, 0.0]], np.float32)
    found = compare_rows(reference, candidate, [0, 1, 2])
    assert found.kld[0] == 0.0
    assert found.kld[1] == pytest.approx(2e4)
    # 1/3 (log(1/3) - 0) + 2/3 (log(1/3) + 800)
    assert found.kld[2] == pytest.approx(2 / 3 * 800 - math.log(3))
    assert np.isfinite(found.nll_candidate).all()
    assert found.nll_candidate[2] == pytest.approx(800.0)
    equal = compare_rows(reference, reference, [0, 1, 2])
    assert (equal.kld == 0).all()
    assert equal.agrees.all()
    assert aggregate(equal).max_logit_error == 0.0


def test_rounding_never_gives_less_than_zero() -> None:
    """A change of an unlikely token by 1e-5 is worth 1e-14 nats or less, about the rounding of the sum."""
    reference = rows(200, 300)
    candidate = reference.copy()
    np.put_along_axis(candidate, reference.argmin(axis=1)[:, None], reference.min(axis=1)[:, None] + 1e-5, axis=1)
    found = compare_rows(reference, candidate, [0] * 200)
    assert (found.max_error > 0).all()
    assert (found.kld >= 0).all()
    assert found.kld.max() < 1e-12


def test_rows_beyond_one_piece_are_in_order() -> None:
    reference, candidate = rows(150), rows(150, seed=1)
    targets = [i % 40 for i in range(150)]
    found = compare_rows(reference, candidate, targets)
    assert len(found.kld) == 150
    for i in (0, 63, 64, 65, 128, 149):
        alone = compare_rows(reference[i : i + 1], candidate[i : i + 1], targets[i : i + 1])
        assert found.kld[i] == alone.kld[0]
        assert found.nll_reference[i] == alone.nll_reference[0]


def test_aggregate() -> None:
    reference = rows(400)
    candidate = reference + rows(400, scale=0.3, seed=1)
    targets = np.random.default_rng(2).integers(0, 40, 400).tolist()
    positions = compare_rows(reference, candidate, targets)
    found = aggregate(positions)
    kld = sorted(positions.kld.tolist())
    mean = math.fsum(kld) / 400
    assert found.tokens == 400
    assert found.kld_mean == pytest.approx(mean)
    sums = [math.fsum(positions.kld[start : start + 32] - mean) for start in range(0, 400, 32)]
    clusters = len(sums)
    assert found.kld_mean_se == pytest.approx(
        math.sqrt(math.fsum(s * s for s in sums) * clusters / (clusters - 1)) / 400
    )
    assert found.kld_median == kld[199]
    assert found.kld_p99 == kld[395]  # the 396th of 400
    assert found.kld_p999 == kld[399]
    assert found.kld_max == kld[-1]
    agree = float((reference.argmax(1) == candidate.argmax(1)).mean())
    assert 0.5 < agree < 1
    assert found.top1 == agree
    assert found.top1_se == pytest.approx(math.sqrt(agree * (1 - agree) / 400), rel=0.5)
    ref, cand = positions.nll_reference, positions.nll_candidate
    assert found.ppl_reference == pytest.approx(math.exp(math.fsum(ref) / 400))
    assert found.ppl_candidate == pytest.approx(math.exp(math.fsum(cand) / 400))
    assert found.ppl_ratio == pytest.approx(found.ppl_candidate / found.ppl_reference)
    delta = candidate.astype(np.float64) - reference
    per_row = np.abs(delta).max(1) / np.sqrt((reference.astype(np.float64) ** 2).mean(1))
    assert found.max_logit_error == pytest.approx(per_row.max())
    assert found.rms_logit_error == pytest.approx(
        np.sqrt((delta**2).mean() / (reference.astype(np.float64) ** 2).mean())
    )
    assert found.snr_db == pytest.approx(-20 * math.log10(found.rms_logit_error))
    assert found.rms_delta_p == pytest.approx(math.sqrt(sum(d * d for d in positions.delta_p) / 400))


def repeated(runs: int, tokens: int, context: int) -> list[Aggregate]:
    """Aggregates of independent samples; the noise of `context` neighbouring positions is of one size."""
    generator = np.random.default_rng(1)
    found = []
    for _ in range(runs):
        reference = (3 * generator.standard_normal((tokens, 6))).astype(np.float32)
        size = np.exp(0.5 * generator.standard_normal((tokens // context, 1))).repeat(context, axis=0)
        noise = 0.3 * size * generator.standard_normal((tokens, 6))
        targets = generator.integers(0, 6, tokens).tolist()
        found.append(aggregate(compare_rows(reference, (reference + noise).astype(np.float32), targets)))
    return found


@pytest.mark.parametrize("context", [1, 16])
def test_standard_errors_are_those_of_repeated_runs(context: int) -> None:
    """Over 300 runs the figures scatter as much as a single run says they do, also where neighbours are alike."""
    runs = repeated(300, 960, context)
    names = [
        "kld_mean", "kld_median", "kld_p99", "top1", "top1_decided", "ppl_reference", "ppl_candidate", "ppl_ratio",
        "rms_logit_error", "snr_db", "rms_delta_p",
    ]  # fmt: skip
    for name in names:
        scatter = np.std([getattr(run, name) for run in runs], ddof=1)
        claimed = np.sqrt(np.mean(np.square([getattr(run, f"{name}_se") for run in runs])))
        if name == "kld_p99" and context > 1:  # ten of 960 positions, from two or three clusters: never too small
            assert scatter < claimed < 2 * scatter
        else:
            assert claimed == pytest.approx(scatter, rel=0.35 if name == "kld_p99" else 0.2), name


def test_positions_taken_as_independent_would_claim_too_much() -> None:
    """The test above can fail: with neighbours alike, the plain formula is far too small."""
    runs = repeated(300, 960, 16)
    scatter = np.std([run.kld_mean for run in runs], ddof=1)
    generator = np.random.default_rng(1)
    reference = (3 * generator.standard_normal((960, 6))).astype(np.float32)
    size = np.exp(0.5 * generator.standard_normal((60, 1))).repeat(16, axis=0)
    noisy = (reference + 0.3 * size * generator.standard_normal((960, 6))).astype(np.float32)
    kld = compare_rows(reference, noisy, [0] * 960).kld
    assert kld.std(ddof=1) / math.sqrt(960) < 0.7 * scatter


def test_divergence_and_perplexity_are_those_of_torch_in_float64() -> None:
    """Another library, another algorithm: equal to 1e-6 relative."""
    generator = np.random.default_rng(4)
    reference = (4 * generator.standard_normal((500, 300))).astype(np.float32)
    candidate = (reference + 0.2 * generator.standard_normal((500, 300))).astype(np.float32)
    targets = generator.integers(0, 300, 500)
    found = aggregate(compare_rows(reference, candidate, targets.tolist()))
    ours, theirs = (torch.from_numpy(rows).double() for rows in (reference, candidate))
    ids = torch.from_numpy(targets)
    kld = functional.kl_div(theirs.log_softmax(1), ours.log_softmax(1), reduction="batchmean", log_target=True)
    ppl = [functional.cross_entropy(rows, ids).exp() for rows in (ours, theirs)]
    assert found.kld_mean == pytest.approx(float(kld), rel=1e-6)
    assert found.ppl_reference == pytest.approx(float(ppl[0]), rel=1e-6)
    assert found.ppl_candidate == pytest.approx(float(ppl[1]), rel=1e-6)
    assert found.ppl_ratio == pytest.approx(float(ppl[1] / ppl[0]), rel=1e-6)


def test_pairing_makes_the_ratio_sharper_than_the_perplexities() -> None:
    reference = rows(300)
    candidate = reference + rows(300, scale=0.01, seed=1)
    positions = compare_rows(reference, candidate, [5] * 300)
    unpaired = positions.nll_reference.std() / math.sqrt(300)
    assert aggregate(positions).ppl_ratio_se < unpaired / 20


def test_near_ties_are_ambiguous() -> None:
    flat = [-4.0] * 6
    scale = math.sqrt((2 * 4.0 + 6 * 16.0) / 8)
    undecided = [2.0, 2.0 + 0.9 * NEAR_TIE * scale, *flat]
    decided = [2.0, 2.0 + 1.2 * NEAR_TIE * scale, *flat]
    reference = np.array([undecided, decided, undecided, [0.0, 9.0, *flat]], np.float32)
    other = [2.1, 2.0, *flat]
    candidate = np.array([other, other, undecided, other], np.float32)
    found = aggregate(compare_rows(reference, candidate, [0] * 4))
    assert found.top1 == 0.25
    assert found.ambiguous == 1
    assert found.top1_decided == 0.5


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_candidate_that_is_not_finite(bad: float) -> None:
    reference = rows(10)
    reference[4, 0] = 50.0
    candidate = reference.copy()
    candidate[4, 20] = bad
    positions = compare_rows(reference, candidate, [0] * 10)
    assert positions.finite.tolist() == [i != 4 for i in range(10)]
    assert not positions.agrees[4]
    assert positions.kld[4] == math.inf
    assert positions.kld[5] == 0
    found = aggregate(positions)
    assert found.nonfinite == 1
    assert found.ambiguous == 0
    assert found.top1 == 0.9
    for value in (found.kld_mean, found.kld_max, found.ppl_ratio, found.max_logit_error, found.rms_delta_p):
        assert not value < math.inf  # infinite or NaN: fails every upper bound
    assert found.kld_median == 0


def test_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(ParityError, match=r"\(2, 40\).*\(2, 39\)"):
        compare_rows(rows(2, 40), rows(2, 39), [0, 0])
    with pytest.raises(ParityError, match="3 targets"):
        compare_rows(rows(2), rows(2), [0, 0, 0])
    broken = rows(2)
    broken[1, 1] = np.nan
    with pytest.raises(ParityError, match="reference's logits are NaN"):
        compare_rows(broken, rows(2), [0, 0])


def test_one_position_has_no_standard_error() -> None:
    found = aggregate(compare_rows(rows(1), rows(1, seed=1), [0]))
    assert math.isnan(found.kld_mean_se)
    assert math.isnan(found.top1_se)
    assert math.isnan(found.ppl_ratio_se)
    assert found.kld_mean == found.kld_median == found.kld_p99 == found.kld_max


def test_all_zero_reference_row() -> None:
    zeros = np.zeros((2, 5), np.float32)
    assert aggregate(compare_rows(zeros, zeros, [0, 0])).max_logit_error == 0.0
    assert aggregate(compare_rows(zeros, zeros + np.float32(1), [0, 0])).max_logit_error == math.inf


def test_concatenate_keeps_order() -> None:
    parts = [compare_rows(rows(2, seed=s), rows(2, seed=s + 10), [0, 1]) for s in range(3)]
    whole = Positions.concatenate(parts)
    assert whole.kld.tolist() == [k for part in parts for k in part.kld.tolist()]


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (0.123456789, 6, 0.123457),
        (1.23456e-9, 3, 1.23e-9),
        (99999.96, 6, 100000.0),
        (0.0, 3, 0.0),
        (-2.6e-5, 1, -3e-5),
    ],
)
def test_significant_digits(value: float, digits: int, expected: float) -> None:
    assert significant(value, digits) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_significant_has_no_nan(value: float) -> None:
    assert significant(value, 3) is None
