"""Import heavy packages in less time."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Keep the garbage collector off while torch and what it needs are imported, and away from them afterwards.

    It would look through everything again and again as their number grows, a quarter of the time, and find
    nothing: modules stay.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
