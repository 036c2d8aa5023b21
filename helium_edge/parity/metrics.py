"""Metrics of logits rows: what is kept per position, and how positions are summed up.

Everything is computed in float64 from float32 logits, in nats. A position keeps a handful of scalars, so a run
over any number of tokens needs little memory. Standard errors take positions as independent; neighbouring tokens
are not quite, so they are a lower estimate.

Shape legend: R rows (positions), V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from helium_edge.errors import ParityError
from helium_edge.runtime.runner import Logits

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

_ROWS_AT_ONCE = 64
"""Rows turned to float64 together: 25 MB a temporary at 48,000 tokens of vocabulary."""


@dataclass(frozen=True, eq=False)
class Positions:
    """Per-position metrics; every field is (R,).

    Attributes:
        kld: KL(reference || candidate), nats.
        agrees: Both have the same most likely token.
        margin: Reference logit of its most likely token less that of the second.
        max_error: max |delta logit| over the vocabulary.
        mean_square_error: Mean over the vocabulary of the squared delta logit.
        mean_square: Mean over the vocabulary of the squared reference logit.
        nll_reference: -log p(target) under the reference, nats.
        nll_candidate: The same under the candidate.
        delta_p: p(target) of the candidate less that of the reference.
        finite: The candidate's row holds neither NaN nor infinity; where it does, every error is infinite.
    """

    kld: Array
    agrees: Mask
    margin: Array
    max_error: Array
    mean_square_error: Array
    mean_square: Array
    nll_reference: Array
    nll_candidate: Array
    delta_p: Array
    finite: Mask

    @staticmethod
    def concatenate(parts: Sequence[Positions]) -> Positions:
        """All positions of `parts`, in order."""
        names = [field.name for field in fields(Positions)]
        return Positions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def compare_rows(reference: Logits, candidate: Logits, targets: Sequence[int]) -> Positions:
    """Compare logits row by row.

    Args:
        reference: (R, V) finite.
        candidate: (R, V).
        targets: R ids, each the true token that follows its row.

    Raises:
        ParityError: Shapes differ, or the reference is not finite.
    """
    if reference.shape != candidate.shape or len(reference) != len(targets):
        raise ParityError(
            f"logits cannot be compared: reference {reference.shape}, candidate {candidate.shape}, "
            f"{len(targets)} targets"
        )
    ids = np.asarray(targets, dtype=np.int64)
    pieces = [slice(start, start + _ROWS_AT_ONCE) for start in range(0, len(ids), _ROWS_AT_ONCE)]
    return Positions.concatenate([_compare(reference[at], candidate[at], ids[at]) for at in pieces])


def _compare(reference: Logits, candidate: Logits, targets: npt.NDArray[np.int64]) -> Positions:
    ref = reference.astype(np.float64)
    if not np.isfinite(ref).all():
        raise ParityError(
            "the reference's logits are NaN or infinite: there is nothing to compare with",
            hint="the original model overflows in float32 on this text; check the checkpoint",
        )
    finite: Mask = np.asarray(np.isfinite(candidate).all(axis=1))
    # Rows that are not finite are computed as zeros, to keep NaN out of the maths, and overwritten below.
    cand = np.where(finite[:, None], candidate, 0).astype(np.float64)
    log_ref, log_cand = log_softmax(ref), log_softmax(cand)
    delta = cand - ref
    rows = np.arange(len(targets))
    nll_ref, nll_cand = -log_ref[rows, targets], -log_cand[rows, targets]
    top_two = np.partition(ref, -2, axis=1)[:, -2:]
    return Positions(
        # Rounding may leave -1e-17 where the divergence is 0; it is never negative.
        kld=_or_inf(finite, np.maximum((np.exp(log_ref) * (log_ref - log_cand)).sum(axis=1), 0.0)),
        agrees=finite & (ref.argmax(axis=1) == cand.argmax(axis=1)),
        margin=top_two[:, 1] - top_two[:, 0],
        max_error=_or_inf(finite, np.abs(delta).max(axis=1)),
        mean_square_error=_or_inf(finite, np.square(delta).mean(axis=1)),
        mean_square=np.square(ref).mean(axis=1),
        nll_reference=nll_ref,
        nll_candidate=_or_inf(finite, nll_cand),
        delta_p=_or_inf(finite, np.exp(-nll_cand) - np.exp(-nll_ref)),
        finite=finite,
    )


def _or_inf(finite: Mask, values: Array) -> Array:
    return np.where(finite, values, np.inf)


def log_softmax(logits: Array) -> Array:
    """Log-probabilities of rows, (R, V) float64; exact for any finite logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


@dataclass(frozen=True)
class Aggregate:
    """Positions summed up; `*_se` are standard errors, NaN for a single position.

    Attributes:
        tokens: Positions compared.
        nonfinite: Positions where the candidate returned NaN or infinity; one makes every error infinite.
        kld_mean: Mean KL(reference || candidate), nats per token.
        kld_mean_se: Its standard error.
        kld_median: Median.
        kld_p99: The smallest value that at least 99 % of the positions do not exceed.
        kld_max: Largest.
        top1: Share of positions with the same most likely token.
        top1_se: Its standard error.
        ambiguous: Disagreements where the reference itself is undecided (`near_tie`).
        top1_decided: `top1` with ambiguous positions counted as agreement; what the gate judges.
        ppl_reference: Perplexity of the text under the reference.
        ppl_candidate: Under the candidate.
        ppl_ratio: Candidate over reference, token by token on the same text.
        ppl_ratio_se: Its standard error, from the paired differences.
        max_logit_error: Largest over positions of max |delta logit| / rms(logit).
        rms_logit_error: rms(delta logit) / rms(logit) over all positions.
        rms_delta_p: Root mean square change of p(target).
    """

    tokens: int
    nonfinite: int
    kld_mean: float
    kld_mean_se: float
    kld_median: float
    kld_p99: float
    kld_max: float
    top1: float
    top1_se: float
    ambiguous: int
    top1_decided: float
    ppl_reference: float
    ppl_candidate: float
    ppl_ratio: float
    ppl_ratio_se: float
    max_logit_error: float
    rms_logit_error: float
    rms_delta_p: float


def aggregate(positions: Positions, *, near_tie: float) -> Aggregate:
    """Sum up one or more positions.

    Args:
        positions: What was compared.
        near_tie: A disagreement is ambiguous where the reference's margin is below this share of rms(logit).
    """
    count = len(positions.kld)
    rms = np.sqrt(positions.mean_square)
    ambiguous = int((~positions.agrees & positions.finite & (positions.margin < near_tie * rms)).sum())
    agreed = int(positions.agrees.sum())
    top1 = agreed / count
    # Infinite errors are meant to come through: inf - inf and overflowing exponentials are no accident here.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        difference = positions.nll_candidate - positions.nll_reference
        ratio = float(np.exp(difference.mean()))
        relative = np.where(positions.max_error > 0, positions.max_error / rms, 0.0)
        return Aggregate(
            tokens=count,
            nonfinite=int((~positions.finite).sum()),
            kld_mean=float(positions.kld.mean()),
            kld_mean_se=_standard_error(positions.kld),
            kld_median=float(np.median(positions.kld)),
            # An interpolated quantile would mix in infinite values.
            kld_p99=float(np.quantile(positions.kld, 0.99, method="inverted_cdf")),
            kld_max=float(positions.kld.max()),
            top1=top1,
            top1_se=math.sqrt(top1 * (1 - top1) / count) if count > 1 else math.nan,
            ambiguous=ambiguous,
            top1_decided=(agreed + ambiguous) / count,
            ppl_reference=float(np.exp(positions.nll_reference.mean())),
            ppl_candidate=float(np.exp(positions.nll_candidate.mean())),
            ppl_ratio=ratio,
            ppl_ratio_se=ratio * _standard_error(difference),
            max_logit_error=float(relative.max()),
            rms_logit_error=_root_ratio(positions.mean_square_error, positions.mean_square),
            rms_delta_p=float(np.sqrt(np.square(positions.delta_p).mean())),
        )


def _standard_error(values: Array) -> float:
    """Standard error of the mean; NaN for a single value."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _root_ratio(error: Array, signal: Array) -> float:
    return float(np.sqrt(error.mean() / signal.mean())) if error.any() else 0.0
