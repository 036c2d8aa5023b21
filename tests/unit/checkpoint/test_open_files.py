"""When the system lets the process open no further file, that is what is said."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from pathlib import Path

import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.errors import ResourceError, too_many_files
from tests.helpers.checkpoints import make_checkpoint


def fill() -> list[int]:
    """Open files until no further one may be opened."""
    held = []
    with contextlib.suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    return held


@pytest.mark.parametrize("left", [0, 1])
def test_too_many_open_files_are_named(tmp_path: Path, left: int) -> None:
    folder = make_checkpoint(tmp_path, shards=2)
    open_checkpoint(str(folder))  # everything is imported
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
        held = fill()
        for _ in range(left):
            os.close(held.pop())
        with pytest.raises(ResourceError, match="too many files are open") as caught:
            open_checkpoint(str(folder))
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "ulimit -n" in caught.value.hint


def test_other_errors_are_none_of_it() -> None:
    assert too_many_files(OSError(errno.ENOENT, "no such file")) is None
    assert too_many_files(OSError("I/O error: Too many open files (os error 24)")) is not None
