"""Work in all threads, with a result that does not depend on how many there are.

Work is cut into pieces of a fixed size, and each is done by one thread alone: torch's own threads, which would
split every single operation and add up in an order of their own, are switched off meanwhile.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TypeVar

import torch

from helium_edge.quant import affine

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS: ContextVar[int | None] = ContextVar("threads", default=None)
"""How many threads `map_pieces` uses while torch itself has one; None where torch's own number says so."""

_PRODUCT_ROWS = 512
"""Rows of a product that one thread computes: few enough for all threads to have some, enough for a GEMM."""


def map_rows(work: Callable[[slice], Result], rows: int, columns: int) -> list[Result]:
    """Call `work` for every chunk of rows of a matrix (see `affine.row_chunks`).

    Args:
        work: Called from several threads at once, as many as torch may use; may write to its own rows of a tensor.
        rows: N.
        columns: K.

    Returns:
        What it returned, in the order of the rows.
    """
    return map_pieces(work, affine.row_chunks(rows, columns))


def map_pieces(work: Callable[[Item], Result], pieces: Iterable[Item]) -> list[Result]:
    """Call `work` for every piece, each in one thread alone.

    Args:
        work: Called from several threads at once, as many as torch may use.
        pieces: What it is called with.

    Returns:
        What it returned, in the order of the pieces.
    """
    items = list(pieces)
    with pieces_alone() as threads:
        if min(threads, len(items)) < 2:
            return [work(item) for item in items]
        pool = ThreadPoolExecutor(threads, thread_name_prefix="pieces")
        # The mode belongs to a thread, and outside it a tensor that was made inside cannot be written.
        inference = torch.is_inference_mode_enabled()

        def work_alike(item: Item) -> Result:
            with torch.inference_mode(inference):
                return work(item)

        try:
            return list(pool.map(work_alike, items))
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def pieces_alone() -> Iterator[int]:
    """Switch torch's own threads off around many calls of `map_pieces`; says how many threads those use.

    Between two of them torch would otherwise start its own for every small operation, and these then wait spinning
    for the next: on two processors with other work on them a calibration took four times as long for it.
    """
    outer = _THREADS.get()
    if outer is not None:
        yield outer
        return
    threads = torch.get_num_threads()
    token = _THREADS.set(threads)
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)
        _THREADS.reset(token)


def alone(work: Callable[[Item], Result], item: Item) -> Result:
    """Call `work` in one thread: LAPACK, for one, adds up in another order in two."""
    return map_pieces(work, [item])[0]


def spans(count: int, size: int) -> list[slice]:
    """Slices of `size`, the last one possibly shorter, over `count` rows."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Multiply (M, K) by (K, N): the same bits whatever the number of threads."""
    out = torch.empty(left.shape[0], right.shape[1], dtype=left.dtype)

    def work(rows: slice) -> None:
        torch.mm(left[rows], right, out=out[rows])

    map_pieces(work, spans(len(left), _PRODUCT_ROWS))
    return out
