"""Buffers that a thread uses again and again.

What is worked on at a time is a megabyte. Taken from the system anew for each operation, such memory would be
cleared page by page each time, which takes longer than the operation.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch


class _Held(threading.local):
    def __init__(self) -> None:
        self.buffers: dict[tuple[str, bool], torch.Tensor] = {}


_HELD = _Held()


def scratch(name: str, shape: Sequence[int]) -> torch.Tensor:
    """A buffer of the calling thread.

    Args:
        name: Which of its buffers: another call with the same name may return the same memory.
        shape: What is needed.

    Returns:
        Contiguous float32 of that shape, of any content.
    """
    # What was made in inference mode cannot be written outside it.
    key, size = (name, torch.is_inference_mode_enabled()), math.prod(shape)
    held = _HELD.buffers.get(key)
    if held is None or held.numel() < size:
        held = _HELD.buffers[key] = torch.empty(size)
    return held[:size].view(*shape)
