"""The folder of what can be computed again: HELIUM_EDGE_CACHE, by default ~/.cache/helium-edge."""

from __future__ import annotations

import math
import os
from pathlib import Path

from helium_edge.documents import shorten
from helium_edge.errors import UsageError

LIMIT_VARIABLE = "HELIUM_EDGE_CACHE_GIB"


def cache_folder() -> Path:
    """Where results that can be computed again are kept; it need not be there yet."""
    given = os.environ.get("HELIUM_EDGE_CACHE")
    return Path(given) if given else Path("~/.cache/helium-edge").expanduser()


def cache_limit() -> float:
    """Most bytes of large files that the folder may hold.

    Raises:
        UsageError: HELIUM_EDGE_CACHE_GIB is no number of GiB.
    """
    given = os.environ.get(LIMIT_VARIABLE, "8")
    try:
        limit = float(given)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise UsageError(f"{LIMIT_VARIABLE}={shorten(given)} is no number of GiB, such as 8 or 0.5")
    return limit * 2**30
