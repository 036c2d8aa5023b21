"""Memory for KV caches: zeroed, and taken from the system as slots are written.

A buffer holds all slots of one head and then those of the next, so that the first token touches every head. With
pages of 2 MiB, which numpy asks Linux for, that one token would make the whole cache resident: 1.9 GB of it for
Helium 2B with 4,096 slots. With pages of 4 KiB memory grows with the context.

Source: Linux madvise(2), MADV_NOHUGEPAGE; numpy asks for large pages unless NUMPY_MADVISE_HUGEPAGE is 0.
"""

from __future__ import annotations

import math
import mmap
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from helium_edge.errors import ResourceError
from helium_edge.signature import CacheSpec


def cache_buffers(spec: CacheSpec, slots: int | None = None) -> list[npt.NDArray[Any]]:
    """Key and value buffer of each layer in turn, zeroed.

    Args:
        spec: The cache.
        slots: Token slots, where they are not `spec.cache_len`.

    Returns:
        Arrays of `spec.shape`, with `slots` in the place of its slots.

    Raises:
        ResourceError: Not enough memory.
    """
    slots = spec.cache_len if slots is None else slots
    shape = (*spec.shape[:-2], slots, spec.head_dim)
    try:
        return [_zeroed(shape, np.dtype(spec.dtype)) for _ in range(2 * spec.layers)]
    except (MemoryError, OSError) as error:
        raise ResourceError(f"no memory for a KV cache of {spec.bytes_per_token * slots} bytes") from error


def _zeroed(shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    advice = getattr(mmap, "MADV_NOHUGEPAGE", None)
    if advice is None:
        return np.zeros(shape, dtype)
    size = math.prod(shape) * dtype.itemsize
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # type: ignore[attr-defined,unused-ignore]
    with suppress(OSError):  # a kernel without large pages does not know the advice
        memory.madvise(advice)
    return np.frombuffer(memory, dtype).reshape(shape)
