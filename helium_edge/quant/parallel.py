"""Work on the rows of a matrix in all threads, with a result that does not depend on how many there are.

Chunks of rows are small enough to stay in cache, and each is worked on by one thread alone: torch's own threads,
which would split every single operation, are switched off meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from helium_edge.quant import affine

Result = TypeVar("Result")


def map_rows(work: Callable[[slice], Result], rows: int, columns: int) -> list[Result]:
    """Call `work` for every chunk of rows of a matrix (see `affine.row_chunks`).

    Args:
        work: Called from several threads at once, as many as torch may use; may write to its own rows of a tensor.
        rows: N.
        columns: K.

    Returns:
        What it returned, in the order of the rows.
    """
    chunks = list(affine.row_chunks(rows, columns))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        if min(threads, len(chunks)) < 2:
            return [work(chunk) for chunk in chunks]
        pool = ThreadPoolExecutor(threads, thread_name_prefix="rows")
        # The mode belongs to a thread, and outside it a tensor that was made inside cannot be written.
        inference = torch.is_inference_mode_enabled()

        def work_alike(chunk: slice) -> Result:
            with torch.inference_mode(inference):
                return work(chunk)

        try:
            return list(pool.map(work_alike, chunks))
        finally:
            pool.shutdown(cancel_futures=True)
    finally:
        torch.set_num_threads(threads)
