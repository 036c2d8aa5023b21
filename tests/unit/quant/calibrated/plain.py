"""GPTQ and the corrected target by their definitions, without a factorisation: slow, and nothing of ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def loss(found: Tensor, target: Tensor, hessian: Tensor) -> float:
    """Sum over rows of (q - w)' H (q - w)."""
    error = (found - target).double()
    return float(((error @ hessian.double()) * error).sum())


def optimal_brain_quantization(
    target: Tensor, hessian: Tensor, size: int, scales_of: Callable[[Tensor, Tensor], Tensor], low: int, high: int
) -> tuple[Tensor, Tensor]:
    """Codes (N, K) and scales (N, G): after each column, the best change of all that are left, by the inverse.

    Args:
        target: (N, K).
        hessian: (K, K) positive definite.
        size: Columns that share a scale.
        scales_of: From weights (N, size) and the price of an error in each column to scales (N,).
        low: Smallest code.
        high: Largest code.
    """
    work, inverse = target.double().clone(), torch.linalg.inv(hessian.double())
    columns = target.shape[1]
    prices, reduced = [], inverse.clone()
    for column in range(columns):
        prices.append(1.0 / float(reduced[column, column]))
        reduced = _without(reduced, column)
    price = torch.tensor(prices)
    price = price / price.max()
    codes, scales = torch.zeros_like(target), torch.zeros(len(target), columns // size)
    for column in range(columns):
        if column % size == 0:
            found = scales_of(work[:, column : column + size].float(), price[column : column + size])
            scales[:, column // size] = found
        scale = scales[:, column // size].double()
        codes[:, column] = (work[:, column] / scale).round().clamp(low, high)
        error = (work[:, column] - codes[:, column].double() * scale) / inverse[column, column]
        work -= error[:, None] * inverse[column]
        inverse = _without(inverse, column)
    return codes, scales


def _without(inverse: Tensor, column: int) -> Tensor:
    """The inverse once a column is fixed: its row and column become zero, and stay out of all that follows."""
    result = inverse - inverse[:, column : column + 1] @ inverse[column : column + 1] / inverse[column, column]
    result[column, column] = 1.0  # never looked at again; keeps divisions finite
    return result


def least_squares(weight: Tensor, reference: Tensor, quantized: Tensor, ridge: float) -> Tensor:
    """The W* (N, K) that minimises ||W X' - W* X~'||^2 / T + ridge * mean(diag H) ||W* - W||^2."""
    tokens = len(quantized)
    moment = quantized.double().T @ quantized.double() / tokens
    shift = ridge * moment.diagonal().mean()
    outputs = weight.double() @ reference.double().T
    right = outputs @ quantized.double() / tokens + shift * weight.double()
    return right @ torch.linalg.inv(moment + shift * torch.eye(len(moment), dtype=torch.float64))
