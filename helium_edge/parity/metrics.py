"""Metrics of logits rows, position by position; `statistics.py` sums them up.

Everything is computed in float64 from float32 logits, in nats. A position keeps a handful of scalars and no
logits, so that a run over any number of tokens needs little memory.

Shape legend: R rows (positions), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from helium_edge.errors import ParityError
from helium_edge.runtime.runner import Logits

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

_ROWS_AT_ONCE = 64
"""Rows turned to float64 together: 25 MB a temporary at 48,000 tokens of vocabulary."""


@dataclass(frozen=True, eq=False)
class Positions:
    """Per-position metrics; every field is (R,).

    Attributes:
        window: Which conversation the position belongs to.
        position: Its place there: the row of position i predicts token i + 1.
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

    window: Index
    position: Index
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
        return Positions(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in _NAMES})

    def select(self, mask: Mask) -> Positions:
        """The positions where `mask`, (R,), is true."""
        return Positions(**{name: getattr(self, name)[mask] for name in _NAMES})


_NAMES = [field.name for field in fields(Positions)]


def compare_rows(
    reference: Logits, candidate: Logits, targets: Sequence[int], *, window: int = 0, start: int = 0
) -> Positions:
    """Compare logits row by row.

    Args:
        reference: (R, V) finite.
        candidate: (R, V).
        targets: R ids, each the true token that follows its row.
        window: Number of the conversation.
        start: Position of the first row.

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
    places = np.arange(start, start + len(ids))
    return Positions.concatenate(
        [_compare(reference[at], candidate[at], ids[at], window, places[at]) for at in pieces]
    )


def _compare(reference: Logits, candidate: Logits, targets: Index, window: int, places: Index) -> Positions:
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
        window=np.full(len(targets), window),
        position=places,
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
