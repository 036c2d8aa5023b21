"""Logits on disk: those of the reference, computed once for a checkpoint and a text, never held in memory.

A window's logits are a float32 array in numpy's format, (rows, V), written row by row and mapped when read. Files
are named by a hash of everything that decides about their content and appear by one rename. The folder is
HELIUM_EDGE_CACHE, by default ~/.cache/helium-edge; the oldest files go when it holds more than
HELIUM_EDGE_CACHE_GIB (8).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from helium_edge.durable import NO_SPACE, replacing
from helium_edge.errors import ResourceError, UsageError
from helium_edge.runtime.runner import Logits
from helium_edge.user_cache import cache_limit

_ABANDONED_SECONDS = 3600.0
"""A file that nobody has written to for so long was left by a run that was killed."""

_VERSION = 1
"""Raised whenever the same key would mean other numbers."""


class LogitsStore:
    """Arrays of logits by what they are the logits of.

    Args:
        folder: Where files lie, created when the first is written; None keeps them in memory, for a short text.
        identity: What all of them have in common: checkpoint, library versions.

    Raises:
        UsageError: See `cache_limit`.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        if folder is not None:
            cache_limit()  # said before minutes of work
        self._kept: dict[str, Logits] = {}
        self._identity = dict(identity)

    def get(
        self, what: Mapping[str, Any], rows: int, vocab_size: int, compute: Callable[[], Iterable[Logits]]
    ) -> Logits:
        """Logits, (rows, V), mapped from the disk; computed and written first where they are not there.

        Args:
            what: Which logits, as plain data.
            rows: How many rows.
            vocab_size: V.
            compute: Yields the rows in order, in pieces of any size.

        Raises:
            ResourceError: No space for them.
            UsageError: The folder cannot be written.
        """
        key = json.dumps({"version": _VERSION, **self._identity, **what}, sort_keys=True)
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        if self._folder is None:
            if name not in self._kept:
                self._kept[name] = np.concatenate(list(compute()))
            return self._kept[name]
        path = self._folder / f"logits-{name}.npy"
        found = self._read(path, rows, vocab_size)
        if found is None:
            self._write(self._folder, path, (rows, vocab_size), compute())
            found = self._read(path, rows, vocab_size)
            assert found is not None
        return found

    @staticmethod
    def _read(path: Path, rows: int, vocab_size: int) -> Logits | None:
        try:
            array: Logits = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None  # absent, or cut short
        if array.shape != (rows, vocab_size) or array.dtype != np.float32:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # used: the last to be pruned
        return array

    @staticmethod
    def _write(folder: Path, path: Path, shape: tuple[int, int], pieces: Iterable[Logits]) -> None:
        nbytes = 4 * shape[0] * shape[1]
        with contextlib.ExitStack() as stack:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _prune(folder, nbytes)
                # Written, not mapped: a full disk is an error of write(), and a signal of a mapped page.
                file = stack.enter_context(stack.enter_context(replacing(path)).open("wb"))
            except OSError as error:
                raise UsageError(
                    f"{folder}: the cache of reference logits cannot be written: {error.strerror}",
                    hint="name another folder in HELIUM_EDGE_CACHE",
                ) from error
            try:
                _fill(file, shape, pieces)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                raise ResourceError(
                    f"{folder}: no space for {nbytes / 1e6:,.0f} MB of reference logits",
                    hint="name another folder in HELIUM_EDGE_CACHE, or compare on fewer --tokens",
                ) from error


def _fill(file: BinaryIO, shape: tuple[int, int], pieces: Iterable[Logits]) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    done = 0
    for piece in pieces:
        file.write(np.ascontiguousarray(piece, "<f4").tobytes())
        done += len(piece)
    file.flush()
    if done != shape[0]:
        raise ValueError(f"{done} rows were computed where {shape[0]} belong")


def _prune(folder: Path, coming: int) -> None:
    """Remove what was not used longest, until what is coming fits."""
    for beside in folder.glob(".logits-*.npy.partial-*"):
        with contextlib.suppress(OSError):
            if time.time() - beside.stat().st_mtime > _ABANDONED_SECONDS:
                beside.unlink()
    limit = cache_limit()
    files = sorted(_sizes(folder), key=lambda entry: entry[1])
    held = sum(size for _, _, size in files)
    for path, _, size in files:
        if held + coming <= limit:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            held -= size


def _sizes(folder: Path) -> Iterator[tuple[Path, float, int]]:
    for path in folder.glob("logits-*.npy"):
        with contextlib.suppress(OSError):
            status = path.stat()
            yield path, status.st_mtime, status.st_size
