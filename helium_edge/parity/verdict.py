"""Gates: what was measured, what is allowed, and whether it holds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from helium_edge.parity.metrics import Aggregate
from helium_edge.recipe import Gates

SLACK = 2.0
"""Standard errors by which a value may miss its limit: a tighter gate would fail by chance."""


@dataclass(frozen=True)
class GateResult:
    """One gate.

    Attributes:
        name: As in the recipe; `nonfinite` is always on.
        measured: The value.
        limit: The bound; None is reported and not gated.
        bound: Whether `limit` is the largest or the smallest value that passes.
        standard_error: Of `measured`, where the gate allows for it; 0 where it does not.
    """

    name: str
    measured: float
    limit: float | None
    bound: Literal["max", "min"]
    standard_error: float = 0.0

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
        return f"{self.name} {self.measured:.6g} is {side} the limit {self.limit:g}"


def judge(gates: Gates, overall: Aggregate) -> tuple[GateResult, ...]:
    """Hold a run against its gates, in the order in which they are shown.

    Positions where the reference itself is undecided count as agreement for `top1`.

    `mean_kld` gets no allowance for its standard error: a fault at one position in a hundred, such as a wrong
    last_index, raises the error as much as the mean, and would hide behind it.
    """
    top1_se = math.sqrt(overall.top1_decided * (1 - overall.top1_decided) / overall.tokens)
    return (
        GateResult("nonfinite", overall.nonfinite, 0, "max"),
        GateResult("mean_kld", overall.kld_mean, gates.mean_kld, "max"),
        GateResult("top1", overall.top1_decided, gates.top1, "min", top1_se),
        GateResult("ppl_ratio", overall.ppl_ratio, gates.ppl_ratio, "max", overall.ppl_ratio_se),
        GateResult("max_logit_error", overall.max_logit_error, gates.max_logit_error, "max"),
    )
