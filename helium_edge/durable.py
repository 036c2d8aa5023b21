"""File system primitives of publishing: durable writes, hashes, locks, and renames that never lose a folder.

Everything goes through `os` calls, one by one, so that tests can make any of them fail.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

_CHUNK = 1 << 20
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY})

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]


def write_file(path: Path, data: bytes) -> None:
    """Create a file that must not exist yet, and bring it to the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        _write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file in one step: a reader sees what was there before, or all of `data`.

    A link is followed, and what is no plain file, such as a pipe, is simply written to.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file() and not target.is_dir():
        target.write_bytes(data)
        return
    beside = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        write_file(beside, data)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)
    sync_folder(target.parent)


def copy_file(source: Path, target: Path) -> None:
    """Copy the bytes of a file to one that must not exist yet; permissions and times are not copied."""
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with source.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                _write_all(descriptor, chunk)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def hash_file(path: Path, *, sync: bool = False) -> tuple[int, str]:
    """Size and sha256 of a file; with `sync` it is also brought to the disk."""
    digest = hashlib.sha256()
    size = 0
    # Windows flushes only through descriptors that may write.
    mode = "r+b" if sync and os.name == "nt" else "rb"
    with path.open(mode) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
        if sync:
            os.fsync(stream.fileno())
    return size, digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Bring the entries of a folder to the disk, where the system can open folders."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def lock_folder(folder: Path) -> int | None:
    """Try to lock a folder for this process; the lock ends with `os.close`, or with the process.

    Returns:
        A descriptor that holds the lock, or None where the system cannot lock folders.

    Raises:
        BlockingIOError: Somebody else holds the lock.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


@functools.cache
def _renameat2() -> Callable[[bytes, bytes, int], None] | None:
    """Linux' rename with flags; None where there is none."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        function = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]

    def call(source: bytes, target: bytes, flags: int) -> None:
        if function(_AT_FDCWD, source, _AT_FDCWD, target, flags) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fsdecode(source), None, os.fsdecode(target))

    return call


def _flagged_rename(source: Path, target: Path, flags: int) -> bool:
    """Rename with flags; False when the system or the file system does not know them."""
    call = _renameat2()
    if call is None:
        return False
    try:
        call(os.fsencode(source), os.fsencode(target), flags)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return False
        raise
    return True


def rename_new(source: Path, target: Path) -> None:
    """Rename a folder to a name that nothing has yet.

    Raises:
        FileExistsError: The name is taken.
    """
    if _flagged_rename(source, target, _RENAME_NOREPLACE):
        return
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(source, target)


def exchange(source: Path, target: Path, aside: Path) -> None:
    """Put the folder `source` in the place of the folder `target`.

    In one step where the system can exchange two names: `source` then names the old folder. Otherwise in two:
    the old folder is renamed to `aside`, and for a moment there is no `target`; should it end there, by an error
    or a kill, the caller is to rename `aside` back.
    """
    if not _flagged_rename(source, target, _RENAME_EXCHANGE):
        os.rename(target, aside)
        os.rename(source, target)
