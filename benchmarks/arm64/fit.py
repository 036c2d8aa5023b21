"""From counts of single operators to what one more weight, one more token of the cache, and one more call cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from arm64.counting import Count
from arm64.jobs import CHUNK, Counted

Costs = dict[str, dict[str, float]]
"""By operator (`product int4-g32`): its figures by name."""


@dataclass(frozen=True)
class Table:
    """The whole table, as it is committed.

    Attributes:
        runtimes: Name and version, by `onnx` or `pte`.
        costs: By runtime and processor.
    """

    runtimes: dict[str, str]
    costs: dict[str, dict[str, Costs]]


def fit(jobs: Sequence[Counted], counts: Sequence[Count]) -> Costs:
    """Figures of every operator.

    Of products: `decode` instructions and `bytes` a weight for one token, `call` instructions beside, `prefill`
    instructions a weight and token. Of attention: `decode` and `bytes` a head and cached token, `call`, and
    `chunk at N` instructions a head of 128 tokens after N others. Of norms and activations: `decode` and `prefill`
    instructions a token.
    """
    groups: dict[tuple[str, str, int, int], list[tuple[int, Count]]] = {}
    for job, found in zip(jobs, counts, strict=True):
        groups.setdefault((job.kind, job.scheme, job.rows, job.heads), []).append((job.size, found))
    costs: Costs = {}
    for (kind, scheme, rows, heads), group in groups.items():
        figures = costs.setdefault(f"{kind} {scheme}".strip(), {})
        figures |= _figures(kind, rows, heads, sorted(group, key=lambda each: each[0]))
    return costs


def _figures(kind: str, rows: int, heads: int, found: list[tuple[int, Count]]) -> dict[str, float]:
    (small, low), (large, high) = found[0], found[-1]
    if kind in ("norm", "activation"):
        return {"decode" if rows == 1 else "prefill": low.instructions / rows}
    if rows == CHUNK and kind == "attention":
        return {f"chunk at {size // heads}": count.instructions / heads for size, count in found}
    if rows == CHUNK:
        return {"prefill": (high.instructions - low.instructions) / (large - small) / rows}
    slope = (high.instructions - low.instructions) / (large - small)
    return {
        "decode": slope,
        "bytes": (high.bytes_read - low.bytes_read) / (large - small),
        "call": low.instructions - slope * small,
    }


BESIDE = 4
"""How much more what is beside the slope may be off: it is small, and hangs on how a runtime was built."""


def differences(known: Table, found: Table, tolerance: float) -> Iterator[str]:
    """A line for each figure that is off by more than a share of it."""
    for runtime, processors in found.costs.items():
        for cpu, costs in processors.items():
            for operator, figures in costs.items():
                for name, value in figures.items():
                    before = known.costs.get(runtime, {}).get(cpu, {}).get(operator, {}).get(name)
                    where = f"{runtime}, {cpu}, {operator}, {name}"
                    allowed = tolerance * (BESIDE if name == "call" else 1)
                    if before is None:
                        yield f"{where}: {value:.4g} is not in the table"
                    elif abs(value - before) > allowed * abs(before):
                        yield f"{where}: {value:.4g}, the table has {before:.4g}"
