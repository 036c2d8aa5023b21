"""What the methods of a `.pte` are made of, in few words: for `inspect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from helium_edge.errors import BundleError


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


def summarize_program(path: Path, target: str) -> list[MethodSummary]:
    """Read a `.pte` of the target `xnnpack` or `coreml`.

    Raises:
        BundleError: Not readable as such a file, or the target writes no `.pte`.
        MissingDependencyError: The package that reads it is not installed.
    """
    readers = {"xnnpack": _xnnpack, "coreml": _coreml}
    if target not in readers:
        raise BundleError(f"{path.name}: the target {target} has no programs of methods")
    return readers[target](path)


def _xnnpack(path: Path) -> list[MethodSummary]:
    from helium_edge.pte.xnnpack_schema import BACKEND
    from helium_edge.runtime.xnnpack_program import read_xnnpack

    return [
        MethodSummary(
            method.name,
            BACKEND,
            method.delegates,
            {
                **Counter(f"product {product.kernel}" for product in method.products),
                "others": sum(method.nodes.values()) - len(method.products),
            },
            method.operators,
        )
        for method in read_xnnpack(path).methods.values()
    ]


def _coreml(path: Path) -> list[MethodSummary]:
    from helium_edge.runtime.coreml_program import read_coreml

    # Reading refuses a method that is not exactly one delegate.
    return [
        MethodSummary(
            method.name,
            "CoreMLBackend",
            1,
            dict(Counter(operation.op_type for operation in method.function.operations).most_common()),
            (),
        )
        for method in read_coreml(path).values()
    ]
