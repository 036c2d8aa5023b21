"""What a calibration costs, from the shape of the model: memory, which does not grow with the layers, and time.

Shapes: T tokens of the text, C hidden_size, I intermediate_size, H query heads, D head_dim; matrices that read one
input are (N, K) together, in G groups along K.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from helium_edge.config import ModelConfig
from helium_edge.model.weights import EMBEDDING, head_name
from helium_edge.quant.affine import group_count
from helium_edge.quant.calibrated.inputs import INPUTS, readers
from helium_edge.quant.parallel import map_pieces
from helium_edge.quant.plan import PlannedWeight

_PER_MOMENT = 28
"""Bytes for each number of a (K, K) moment: H and C in float32, two matrices of a factorisation in float64, and
the factor in float32."""

_PER_WEIGHT = 16
"""Bytes for each weight of the matrices that are worked on: as they are, folded, their target, what is found."""


def peak_bytes(config: ModelConfig, plan: Sequence[PlannedWeight], tokens: int) -> int:
    """Estimated bytes of a calibration at its peak.

    Args:
        config: The model.
        plan: Its matrices.
        tokens: T.
    """
    attention, hidden, inner = (
        config.num_attention_heads * config.head_dim,
        config.hidden_size,
        config.intermediate_size,
    )
    sizes = {planned.name: math.prod(planned.shape) for planned in plan}
    stacks = [sum(sizes[name] for name in readers(0, name_of)) for name_of in INPUTS]
    head = max((size for name, size in sizes.items() if "layers." not in name and name != EMBEDDING), default=0)
    widest = max(attention, hidden, inner)
    # Residual streams of both models and a sum; four inputs of the original; an input and its difference.
    states = 4 * tokens * (3 * hidden + (2 * hidden + attention + inner) + 2 * widest)
    in_layer = _PER_MOMENT * widest**2 + 4 * sum(stacks) + _PER_WEIGHT * max(stacks)
    return states + max(in_layer, _PER_MOMENT * hidden**2 + _PER_WEIGHT * head)


@dataclass(frozen=True)
class Work:
    """Arithmetic of a calibration.

    Attributes:
        single: Operations of products in float32.
        double: Operations of products and factorisations in float64.
        elements: Weights, each times the passes over it that are no product: scale searches, rounding, descent.
    """

    single: float
    double: float
    elements: float


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second, with all threads that torch may use.

    Attributes:
        single: Operations of a product in float32.
        double: The same in float64.
    """

    single: float
    double: float

    def seconds(self, work: Work) -> float:
        """Time that some work takes."""
        products = work.single / self.single + work.double / self.double
        return products + _ELEMENT * work.elements / torch.get_num_threads()


_ELEMENT = 90e-9
"""Seconds of one thread for a pass over a weight that is no product: a scale search takes two thirds of it."""

_PASSES, _PASSES_A_ROUND = 1.0, 0.5


def arithmetic(config: ModelConfig, plan: Sequence[PlannedWeight], tokens: int, rounds: int) -> Work:
    """Arithmetic of a calibration, attention itself left out.

    Args:
        config: The model.
        plan: Its matrices.
        tokens: T.
        rounds: Of refit and descent.
    """
    single = double = elements = 0.0
    for rows, columns, groups in _stacks(config, plan):
        weights, square = rows * columns, columns**2
        forward, moments = 4 * weights * tokens, 3 * tokens * square
        # W C, and what GPTQ hands on to later columns; the slope, and in each round a refit and a descent.
        single += forward + moments + 3 * weights * columns + (2 if rounds else 0) * weights * columns
        single += rounds * 5 * weights * columns
        # Two factorisations and an inverse; the target's solutions; the systems of a refit, one a row.
        double += 5 / 3 * columns**3 + 2 * min(rows, columns) * square + rounds * 2 / 3 * rows * groups**3
        elements += weights * (_PASSES + rounds * _PASSES_A_ROUND)
    return Work(single, double, elements)


def measure_rates() -> Rates:
    """What this machine does, by products that take some tens of milliseconds."""
    return Rates(_rate(torch.float32), _rate(torch.float64))


def _rate(dtype: torch.dtype) -> float:
    size, pieces = 512, 4 * torch.get_num_threads()
    left = torch.ones(size, size, dtype=dtype)

    def work(_: int) -> None:
        torch.mm(left, left)

    map_pieces(work, range(pieces))  # the first call sets the library up
    started = time.perf_counter()
    map_pieces(work, range(pieces))
    return 2.0 * size**3 * pieces / (time.perf_counter() - started)


def _stacks(config: ModelConfig, plan: Sequence[PlannedWeight]) -> Iterator[tuple[int, int, int]]:
    """N, K and G of every stack of matrices that are calibrated together."""
    planned = {each.name: each for each in plan}
    groups = [readers(layer, name) for layer in range(config.num_hidden_layers) for name in INPUTS]
    head = head_name(config)
    for names in [*groups, *([] if head is None else [[head]])]:
        found = [planned[name] for name in names if planned[name].scheme is not None]
        if not found:
            continue
        columns = found[0].shape[1]
        scheme = found[0].scheme
        assert scheme is not None
        yield sum(each.shape[0] for each in found), columns, group_count(scheme, columns)
