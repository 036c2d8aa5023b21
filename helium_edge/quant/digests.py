"""Digests of tensors as an export has them, for bundles whose integers cannot be made anew."""

from __future__ import annotations

import hashlib

import torch

from helium_edge.quant.affine import QuantizedWeight
from helium_edge.quant.shard import tensor_hash


def tensor_digest(tensor: QuantizedWeight | torch.Tensor, real: torch.dtype = torch.float32) -> str:
    """sha256 of a matrix or vector: scheme, codes, scales and zero points, or real values.

    Args:
        tensor: Quantized, or float32.
        real: Type in which a file holds scales and real values; they are rounded to it first.

    Returns:
        64 hex digits.
    """
    if isinstance(tensor, torch.Tensor):
        return tensor_hash(tensor.to(real).to(torch.float32))
    zeros = [] if tensor.zero_points is None else [tensor.zero_points]
    content = tensor_hash(tensor.codes, tensor.scales.to(real).to(torch.float32), *zeros)
    return hashlib.sha256(f"{tensor.scheme} {content}".encode()).hexdigest()
