"""Gives back the memory of mapped files that a runtime has read once and copied.

ONNX Runtime maps `weights.bin`, copies weights and scales into the layout of its kernels, and keeps the scales
mapped although nothing reads them again. Their pages are clean, so the system could take them back at any time;
until it needs to, they count as memory of the process.

Source: Linux madvise(2), proc_pid_smaps(5).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_DONTNEED = 4
_SMAPS = Path("/proc/self/smaps")


@dataclass
class _Mapping:
    start: int
    end: int
    path: str
    private: bool
    resident: int = 0
    anonymous: int = 0


def release_clean_pages(folder: Path) -> int:
    """Drop the resident pages of private mappings of files below `folder`; a later read fetches them again.

    A mapping with a page that was written to is left alone, since dropping it would undo the write.

    Returns:
        Bytes dropped; 0 where the system is not Linux or does not tell.
    """
    if not sys.platform.startswith("linux"):
        return 0
    prefix = f"{folder.resolve()}/"
    try:
        # In the Hub's cache the files are links to others.
        blobs = {os.path.realpath(entry.path) for entry in os.scandir(folder) if entry.is_symlink()}
        madvise = ctypes.CDLL(None).madvise
        with _SMAPS.open(encoding="utf-8", errors="surrogateescape") as lines:
            found = [each for each in _mappings(lines) if each.path.startswith(prefix) or each.path in blobs]
    except (OSError, AttributeError):
        return 0
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    dropped = 0
    for mapping in found:
        clean = mapping.private and mapping.resident and not mapping.anonymous
        if clean and madvise(mapping.start, mapping.end - mapping.start, _DONTNEED) == 0:
            dropped += mapping.resident
    return dropped


def _mappings(lines: Iterator[str]) -> Iterator[_Mapping]:
    current: _Mapping | None = None
    for line in lines:
        # A header is "start-end modes offset device inode path"; every other line is "Name: value unit".
        fields = line.rstrip("\n").split(maxsplit=5)
        if fields[0].endswith(":"):
            if current is not None and fields[0] in ("Rss:", "Anonymous:"):
                size = 1024 * int(fields[1])
                if fields[0] == "Rss:":
                    current.resident = size
                else:
                    current.anonymous = size
            continue
        if current is not None:
            yield current
        start, _, end = fields[0].partition("-")
        path = fields[5] if len(fields) > 5 else ""
        current = _Mapping(int(start, 16), int(end, 16), path, fields[1].endswith("p"))
    if current is not None:
        yield current
