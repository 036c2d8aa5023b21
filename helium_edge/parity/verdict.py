"""Gates: what was measured, what is allowed, and whether it holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from helium_edge.parity.statistics import Aggregate
from helium_edge.quant.activations import Arithmetic
from helium_edge.quant.kv_calibration import CLIPPED_LIMIT, Saturation
from helium_edge.recipe import Gates

_SHOWN_FAILURES = 8

SLACK = 2.0
"""Standard errors by which a value may miss its limit: a tighter gate would fail by chance."""

NOISE = 1e-4
"""Relative rms of a row up to which two float32 computations of it are the same; measured 2e-7 to 2e-5."""

FLIPPED = 3e-2
"""The same, per square root of the layers, where an activation was rounded to the other side: the token is then as
far off as two roundings of the same numbers are (tests/integration/test_xnnpack_quantized.py derives it)."""

HALF = 5e-3
"""Relative rms of float16 arithmetic per square root of the layers: measured 2e-3 to 3e-3 on two."""

ROUNDING_COST = 0.03
"""Mean KLD, nats, that rounding activations to int8 may add to that of the weights: measured 0.001 to 0.004."""


EXACT_COST = 1e-4
"""The same where nothing is rounded but in float32."""

CACHE_COST = {"int8": 0.002, "float16": 1e-4}
"""Mean KLD, nats, that a KV cache of this type may add to a float32 one under the same weights."""

FLIPPED_CODE = 5e-3
"""Relative rms of a row where float32 noise tipped numbers of a rounded cache to the other side of a tie."""


@dataclass(frozen=True)
class GateResult:
    """One gate.

    Attributes:
        name: As in the recipe; `nonfinite` is always on.
        measured: The value.
        limit: The bound; None is reported and not gated.
        bound: Whether `limit` is the largest or the smallest value that passes.
        standard_error: Of `measured`, where the gate allows for it; 0 where it does not.
        place: Where it is worst, for the line of a failure.
    """

    name: str
    measured: float
    limit: float | None
    bound: Literal["max", "min"]
    standard_error: float = 0.0
    place: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the bound holds; None when there is none. NaN never passes.

        A value passes while it is within two standard errors of the limit: less is noise of the sample.
        """
        if self.limit is None:
            return None
        slack = SLACK * self.standard_error if math.isfinite(self.standard_error) else 0.0
        if self.bound == "max":
            return self.measured <= self.limit + slack
        return self.measured >= self.limit - slack

    @property
    def failure(self) -> str | None:
        """The failure in one line, or None."""
        if self.limit is None or self.passed:
            return None
        if not math.isfinite(self.measured):
            return f"{self.name} is {self.measured}, the limit is {self.limit:g}"
        side = "above" if self.bound == "max" else "below"
        # Enough digits that a near miss does not read as equality.
        place = f", most in {self.place}" if self.place else ""
        return f"{self.name} {self.measured:.6g} is {side} the limit {self.limit:g}{place}"


@dataclass(frozen=True)
class GraphLimits:
    """What level L1 and the checks of the cache allow, by how the kernels compute.

    Attributes:
        median: Relative rms of the median row.
        worst: Of every row.
        apart: Of the last row of two runs over caches of their own, where ties add up on both sides.
    """

    median: float
    worst: float
    apart: float


def graph_limits(arithmetic: Arithmetic, layers: int, *, traced: bool) -> GraphLimits:
    """The limits of a bundle.

    Args:
        arithmetic: How its kernels compute.
        layers: Decoder layers.
        traced: Ties are rounded as the runtime rounded them.
    """
    depth = math.sqrt(layers)
    if not arithmetic.rounds:
        limit = NOISE if arithmetic.exact else HALF * depth
        worst = limit if arithmetic.exact else 4 * limit
        return GraphLimits(limit, worst, 2 * worst)
    flipped = FLIPPED * depth
    if arithmetic.exact and traced:
        return GraphLimits(NOISE, NOISE, 2 * flipped)
    return GraphLimits(flipped, 2 * flipped, 4 * flipped)


def judge_graph(
    limits: GraphLimits, errors: npt.NDArray[np.float64], overall: Aggregate
) -> tuple[GateResult, ...]:
    """L1: every row of logits and of the cache against the yardstick; nothing here is a matter of sampling.

    Args:
        limits: See `graph_limits`.
        errors: (R,) relative rms of each row, ties rounded as the runtime rounded them.
        overall: The same rows as logits.
    """
    return (
        GateResult("nonfinite", overall.nonfinite, 0, "max"),
        GateResult("median_error", float(np.median(errors)), limits.median, "max"),
        GateResult("worst_error", float(errors.max()), limits.worst, "max"),
    )


def judge_budget(gates: Gates, overall: Aggregate) -> tuple[GateResult, ...]:
    """L2 and L3 against the recipe's gates, in the order in which they are shown.

    Positions where the reference itself is undecided count as agreement for `top1`.
    """
    return (
        GateResult("nonfinite", overall.nonfinite, 0, "max"),
        GateResult("mean_kld", overall.kld_mean, gates.mean_kld, "max", overall.kld_mean_se),
        GateResult("top1", overall.top1_decided, gates.top1, "min", overall.top1_decided_se),
        GateResult("ppl_ratio", overall.ppl_ratio, gates.ppl_ratio, "max", overall.ppl_ratio_se),
        GateResult("max_logit_error", overall.max_logit_error, gates.max_logit_error, "max"),
    )


def judge_consistency(arithmetic: Arithmetic, excess: float, standard_error: float) -> GateResult:
    """L3 is what L1 and L2 add up to: more means that text, BOS, mask or positions differ from the original's.

    Args:
        arithmetic: How the kernels compute; rounding activations may cost something.
        excess: Mean KLD of L3 less that of L2 at the same positions, nats.
        standard_error: Of the excess.
    """
    limit = ROUNDING_COST if arithmetic.rounds or not arithmetic.exact else EXACT_COST
    return GateResult("kld_beyond_l2", excess, limit, "max", standard_error)


def judge_cache_cost(kind: Literal["float16", "int8"], excess: float, standard_error: float) -> GateResult:
    """What a rounded KV cache costs beyond a float32 one, on the same tokens and weights.

    Args:
        kind: Its type.
        excess: Mean KLD of the one less that of the other, nats.
        standard_error: Of the excess.
    """
    return GateResult(f"kld_of_{kind}_cache", excess, CACHE_COST[kind], "max", standard_error)


def judge_saturation(found: Saturation) -> GateResult:
    """Values of the text that an int8 KV cache clips: static scales are those of another text."""
    place = "" if found.worst is None else str(found.worst)
    return GateResult("cache_clipped", found.share, CLIPPED_LIMIT, "max", place=place)


def in_one_line(failures: Sequence[str]) -> str:
    """What missed its gate, in a line that can be read; reports and documents have all."""
    more = len(failures) - _SHOWN_FAILURES
    return "; ".join([*failures[:_SHOWN_FAILURES], *([f"and {more} more"] if more > 0 else [])])
