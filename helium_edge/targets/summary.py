"""What the methods of a program are made of, in few words: for `inspect`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MethodSummary:
    """One method.

    Attributes:
        name: Of the method.
        backend: That its delegates belong to.
        delegates: Number of delegates; everything in one is what we write.
        operations: Operations inside, by kind: kernels of products with weights first where they are known.
        outside: Operators that run outside of the delegates, in order.
    """

    name: str
    backend: str
    delegates: int
    operations: Mapping[str, int]
    outside: tuple[str, ...]
