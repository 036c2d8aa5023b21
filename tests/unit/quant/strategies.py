"""Weights for property tests: ordinary, heavy-tailed, constant, huge, subnormal and zero groups, in one matrix."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from helium_edge.recipe import Scheme

INT4 = [Scheme(bits=4, group_size=size) for size in (32, 64, 128)]
INT4_ASYMMETRIC = [Scheme(bits=4, group_size=size, symmetric=False) for size in (32, 64, 128)]
INT8 = Scheme(bits=8)
SCHEMES = [*INT4, *INT4_ASYMMETRIC, INT8]

KINDS = ("normal", "outlier", "constant", "positive", "huge", "subnormal", "tiny", "zero")


def unhurried(examples: int) -> settings:
    """Settings without a time limit: a busy machine is no failure."""
    return settings(max_examples=examples, suppress_health_check=[HealthCheck.too_slow])


schemes = st.sampled_from(SCHEMES)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


@st.composite
def weights(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> torch.Tensor:
    """(N, K), K a multiple of 128; each run of 32 weights is of one kind."""
    rows, columns = draw(st.integers(1, 3)), 128 * draw(st.integers(1, 2))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(rows, columns, generator=generator) * 0.3
    for row in weight:
        for run in row.split(32):
            _change(run, draw(st.sampled_from(kinds)))
    return weight.to(draw(dtypes))


def _change(run: torch.Tensor, kind: str) -> None:
    if kind == "outlier":
        run[7] *= 40.0
    elif kind == "constant":
        run[:] = run[0]
    elif kind == "positive":
        run.abs_()
    elif kind == "huge":
        run.mul_(1e38).clamp_(-3.3e38, 3.3e38)
    elif kind == "subnormal":
        run.mul_(1e-39)
    elif kind == "tiny":
        run.mul_(1e-36)
    elif kind == "zero":
        run.zero_()
