"""`LayerTable`: the error of every operation of every layer, and which is the first that is guilty.

An operation is guilty by its *own* error, with the yardstick's inputs: errors that it only passes on stand in the
accumulated column. Tolerances follow from what the kernels do. In float32, sums in another order differ by less
than 1e-6 of the result's rms; 1e-5 allows for the longest. Where activations are rounded to int8, both sides round
the very same float32 inputs, so that they agree as well, but for an activation that lies on the middle between two
codes to the last bit and is rounded to different sides: such a flip moves one row by some 0.1 %. Rows are
therefore judged by their median, which a flip does not move and wrong weights do, and each by what no rounding
reaches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helium_edge.parity.document import GuiltyOp, LayerError, Layers
from helium_edge.signature import Phase
from helium_edge.targets.debug import Array

TOLERANCE = 1e-5
"""Largest own error, relative to the rms of the result."""
FLIPPED_CODES = 1e-3
"""The same of attention over an int8 or float16 cache: both sides round the new rows, and a tie may flip a code:
one code of one channel of values moves a row by less than 1 / (127 sqrt(D)). In float16 queries and results are
rounded too, and a step is at most a thousandth of a number."""
FLIPPED = 0.05
"""Largest own error of one row where activations are rounded; a flip moves a row by 0.001 to 0.01."""

OPERATIONS = (
    "embedding", "input_layernorm", "q_proj", "k_proj", "v_proj", "key", "value", "attention", "o_proj",
    "post_attention_layernorm", "gate_proj", "up_proj", "activation", "down_proj", "norm", "lm_head",
)  # fmt: skip
"""In the order of the forward pass; `key` and `value` are the new rows of the cache, keys rotated by RoPE."""


@dataclass(frozen=True)
class OpError:
    """How far a result is from the yardstick's.

    Attributes:
        relative: rms(delta) / rms(reference); infinite when anything is not finite.
        typical: Median over rows of the same.
        worst_row: Largest over rows of the same.
        position: Token position of the largest |delta|.
        channel: Its channel; of keys and values, head * D + dimension.
    """

    relative: float
    typical: float
    worst_row: float
    position: int
    channel: int

    @property
    def snr(self) -> float:
        """Signal to noise ratio in dB."""
        return math.inf if self.relative == 0 else -20 * math.log10(self.relative)


@dataclass(frozen=True)
class LayerRow:
    """One operation of one graph.

    Attributes:
        phase: Of the calls.
        graph: File or method.
        layer: None for embedding, norm and lm_head.
        op: One of `OPERATIONS`.
        own: With the yardstick's inputs.
        accumulated: In the plain forward pass.
        rounds: Whether the operation rounds activations.
        tolerance: Largest own error of its rows, of the median row where it rounds.
    """

    phase: Phase
    graph: str
    layer: int | None
    op: str
    own: OpError
    accumulated: OpError
    rounds: bool
    tolerance: float = TOLERANCE

    @property
    def guilty(self) -> bool:
        """Whether its own error is more than arithmetic explains."""
        if self.rounds:
            return not (self.own.typical <= self.tolerance and self.own.worst_row <= FLIPPED)
        return not self.own.worst_row <= self.tolerance


@dataclass(frozen=True)
class LayerTable:
    """All rows: the phases one after the other, each in the order of the forward pass.

    Attributes:
        rows: The table.
        arithmetic: How the yardstick treats activations, in words.
        exact: Whether that is known to be what the kernels do here; if not, no row is called guilty by it.
    """

    rows: tuple[LayerRow, ...]
    arithmetic: str
    exact: bool = True

    @property
    def first(self) -> LayerRow | None:
        """The guilty row that comes first in the forward pass, of whichever phase; None when none is."""
        guilty = [row for row in self.rows if row.guilty and (self.exact or not row.rounds)]
        return min(guilty, key=_order, default=None)

    @property
    def guilty(self) -> tuple[int | None, str] | None:
        """Layer and operation of `first`."""
        return None if self.first is None else (self.first.layer, self.first.op)

    def document(self) -> Layers:
        """As it is written; errors that are not finite are null."""
        first = self.first
        return Layers(
            arithmetic=self.arithmetic,
            exact=self.exact,
            guilty=None if first is None else GuiltyOp(layer=first.layer, op=first.op),
            rows=tuple(
                LayerError(
                    phase=row.phase,
                    graph=row.graph,
                    layer=row.layer,
                    op=row.op,
                    own_error=row.own.relative,
                    own_snr_db=row.own.snr,
                    accumulated_error=row.accumulated.relative,
                    accumulated_snr_db=row.accumulated.snr,
                    worst_position=row.own.position,
                    guilty=row.guilty and (self.exact or not row.rounds),
                )
                for row in self.rows
            ),
        )

    @property
    def failures(self) -> list[str]:
        """The first guilty operation in one line; empty when none is."""
        row = self.first
        if row is None:
            return []
        where = row.op if row.layer is None else f"layer {row.layer} {row.op}"
        return [f"{where} of {row.graph} is the first to differ by itself, relative rms {row.own.relative:.2g}"]


def _order(row: LayerRow) -> tuple[float, int]:
    before = -1.0 if row.op == "embedding" else math.inf
    return before if row.layer is None else float(row.layer), OPERATIONS.index(row.op)


def op_error(found: Sequence[Array], expected: Sequence[Array], positions: Sequence[int]) -> OpError:
    """Compare the rows of several calls.

    Args:
        found: (R, N) each.
        expected: (R, N) each.
        positions: Token position of each row, over all calls.
    """
    ours = np.concatenate(found).astype(np.float64)
    theirs = np.concatenate(expected).astype(np.float64)
    delta = np.abs(ours - theirs)
    delta[~np.isfinite(delta)] = np.inf
    row, channel = np.unravel_index(int(delta.argmax()), delta.shape)
    with np.errstate(over="ignore", invalid="ignore"):
        noise = np.sqrt(np.square(delta).mean(axis=1))
        # Against all rows: one whose values happen to vanish is not judged by them alone.
        signal = np.sqrt(np.square(theirs).mean(axis=1))
        floor = float(np.sqrt(np.square(theirs).mean()))
        rows = noise / np.maximum(signal, floor * 1e-3) if floor else np.where(noise > 0, np.inf, 0.0)
        total = float(np.sqrt(np.square(noise).mean())) / floor if floor else float(np.max(rows))
    return OpError(total, float(np.median(rows)), float(np.max(rows)), positions[int(row)], int(channel))
