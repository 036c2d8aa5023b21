"""Folds: factors moved between a matrix and what writes its input, so that large channels get finer weights.

The function stays the same and costs nothing at run time: the columns of the readers are multiplied by s, and the
norm gain, or the rows of v and up (with their biases), are divided by it. s_c is a power of how large channel c is
in the text; the power is the one under which rounding to nearest errs least, so that a layer without large
channels keeps power 0. With grouped-query attention the query heads of one key-value head share the factors of its
rows.

Shapes: N output channels, K input channels, H / Hkv query / key-value heads, D head_dim.

Source: Lin et al., AWQ (https://arxiv.org/abs/2306.00978), section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.model.parts import bias_name
from helium_edge.quant.affine import dequantize
from helium_edge.quant.calibrated.inputs import HEAD_WRITER, INPUTS, head_weight, readers, writer
from helium_edge.quant.methods import METHODS
from helium_edge.quant.parallel import map_pieces, spans
from helium_edge.recipe import Scheme

POWERS = (0.0, 0.25, 0.5, 0.75, 1.0)

_WORTH = 0.9
"""Share of the loss that must be left for a fold to be made: of inputs without large channels, 0.96 to 1 is, and
they are better left alone (0.0189 against 0.0195 on held-out text); with large ones, 0.25 to 0.62."""

_ROWS = 2048
"""Rows that are folded at a time: a head has hundreds of megabytes, and every thread tries a power of its own."""

_FLOOR = 1e-4
"""Smallest channel, as a share of the largest one: what the text never uses is not blown up without end."""


class Folds:
    """The factors of a model, by the tensors that they change.

    Args:
        config: The model.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._columns: dict[str, Tensor] = {}
        self._rows: dict[str, Tensor] = {}

    def add_layer(self, layer: int, factors: Mapping[str, Tensor]) -> None:
        """Take the factors of a layer, each (channels of the input,), by the names of `INPUTS`."""
        for name in INPUTS:
            if name not in factors:
                continue
            factor = factors[name]
            self._columns.update(dict.fromkeys(readers(layer, name), factor))
            written = writer(layer, name)
            if name == "mixed":
                config = self._config
                factor = factor.view(config.num_key_value_heads, -1, config.head_dim)[:, 0].reshape(-1)
            self._divide(written, factor)

    def add_head(self, factor: Tensor) -> None:
        """Take the factors (C,) of what the head reads."""
        name = head_weight(self._config)
        assert name is not None
        self._columns[name] = factor
        self._divide(HEAD_WRITER, factor)

    def apply(self, name: str, tensor: Tensor) -> Tensor:
        """A matrix, gain or bias as float32, with the factors that concern it."""
        result = tensor.to(torch.float32)
        rows, columns = self._rows.get(name), self._columns.get(name)
        if rows is not None:
            result = result / (rows if result.dim() == 1 else rows[:, None])
        return result if columns is None else result * columns

    def _divide(self, name: str, factor: Tensor) -> None:
        self._rows[name] = factor
        bias = None if "norm" in name else bias_name(self._config, name)
        if bias is not None:
            self._rows[bias] = factor


def choose_factors(
    power: Tensor, weights: Sequence[tuple[Tensor, Scheme | None]], *, shared: tuple[int, int] | None = None
) -> Tensor:
    """Factors of the channels of an input.

    Args:
        power: (K,) float32, mean square of each channel over the text.
        weights: The readers, each (N, K) float32, with their schemes; None is not quantized.
        shared: (Hkv, D) where the channels of an input (Hkv, H / Hkv, D) share factors over the middle axis.

    Returns:
        (K,) float32, positive, and few bits, so that noise in the last bits of a sum gives the same ones. All ones
        where no power is better than none.
    """
    size = power
    if shared is not None:
        grouped = power.view(shared[0], -1, shared[1])
        size = grouped.mean(dim=1, keepdim=True).expand_as(grouped).reshape(-1)
    size = size.sqrt()
    quantized = [(weight, scheme) for weight, scheme in weights if scheme is not None]
    if not quantized or float(size.max()) == 0.0:
        return torch.ones_like(size)
    size = size.clamp(min=float(size.max()) * _FLOOR)

    def judge(exponent: float) -> tuple[float, Tensor]:
        factors = size**exponent
        factors = (factors / (factors.max() * factors.min()).sqrt()).to(torch.bfloat16).to(torch.float32)
        return sum(_rounding_loss(weight, scheme, factors, power) for weight, scheme in quantized), factors

    judged = map_pieces(judge, POWERS)
    best = min(judged, key=lambda each: each[0])
    return best[1] if best[0] < _WORTH * judged[0][0] else torch.ones_like(size)


def _rounding_loss(weight: Tensor, scheme: Scheme, factors: Tensor, power: Tensor) -> float:
    """Mean squared error of the outputs under rounding to nearest, were the channels independent."""
    price, total = power / factors.square(), 0.0
    for rows in spans(len(weight), _ROWS):
        folded = weight[rows] * factors
        error = dequantize(METHODS["rtn"](folded, scheme)).sub_(folded).square_()
        total += float((error.sum(dim=0, dtype=torch.float64) * price).sum())
    return total
