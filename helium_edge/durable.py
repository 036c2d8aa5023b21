"""Files and folders that appear whole or not at all: durable writes, hashes, locks, and `PartialFolder`.

A file is written beside its place and renamed into it (`replacing`). A folder is written as `<name>.partial-<id>`
beside its place and renamed once. The partial folder is locked while it is written, so that a second writer to the
same place is refused, and so that what a killed one left behind can be told from what is in use, and removed.

Everything goes through `os` calls, one by one, so that tests can make any of them fail.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import hashlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from helium_edge.errors import HeliumEdgeError, UsageError

_CHUNK = 1 << 20
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_RENAME_EXCHANGE = 2
NO_SPACE = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
"""What a write says to a full disk, a file that grew too large, or a quota that is used up."""

_LOCK_SECONDS = 10.0
_PARTIAL = "partial"
_REPLACED = "replaced"
_UNSUPPORTED = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY})

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]


def require_utf8(path: Path, *, shown: str) -> None:
    """Refuse a place whose name, or that of a folder above, is no UTF-8: native libraries open no other.

    Raises:
        UsageError: It is not.
    """
    try:
        str(path.absolute()).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(
            f"{shown!a}: the name, or that of a folder above, is not UTF-8, which the libraries that read it need",
            hint="rename it",
        ) from error


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
    with replacing(target) as beside:
        write_file(beside, data)
    sync_renamed(target.parent)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new name beside `path` for the block to write; renamed to `path` at its end, or removed on an exception.

    Readers see what was there before, or the whole file. Bringing it to the disk is left to the caller.
    """
    beside = path.with_name(f".{path.name}.{_PARTIAL}-{secrets.token_hex(4)}")
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


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
    if os.name != "nt":
        sync_file(folder)


def sync_renamed(folder: Path) -> None:
    """Bring a rename in `folder` to the disk if the disk takes it.

    What was renamed is whole and on the disk, under its old name or the new one: an error would say that nothing
    was written, and there it is.
    """
    with suppress(OSError):
        sync_folder(folder)


def sync_file(path: Path) -> None:
    """Bring a file to the disk."""
    # Windows flushes only through descriptors that may write.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
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


@final
class PartialFolder:
    """A folder that takes its name whole, or not at all; a context manager.

    Files go into `path`. Leaving the block without `publish`, or by any exception, removes that folder. Parent
    folders that are missing are created, and removed again when nothing was published. Leftovers of killed writers
    to the same target are removed, and a folder that one of them was replacing is put back.

    Args:
        target: The folder to be; links above it are resolved by the caller.
        shown: The target as the user wrote it, for messages.
        activity: What writes there, for messages: "export".

    Attributes:
        restored: Whether entering put back a folder that a killed writer was replacing.

    Raises:
        UsageError: On entering: another writer to the target is at work, or its parent stays locked.
        OSError: Likewise: the folder cannot be made.
    """

    def __init__(self, target: Path, *, shown: str, activity: str) -> None:
        self.restored = False
        self._target = target
        self._shown = shown
        self._activity = activity
        self._path: Path | None = None
        self._lock: int | None = None
        self._new_parents: list[Path] = []

    @property
    def path(self) -> Path:
        """Where to write: beside the target, on the same file system."""
        if self._path is None:
            raise HeliumEdgeError("a partial folder is only there inside its with block")
        return self._path

    @property
    def is_open(self) -> bool:
        """Whether there is a folder to write to."""
        return self._path is not None

    def __enter__(self) -> PartialFolder:
        try:
            self._new_parents = _make_parents(self._target.parent)
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def publish(self, *, replace: bool = False) -> None:
        """Give the folder its name, in one step where the system can; its files are on the disk already.

        Args:
            replace: Put it in the place of a folder that has the name.

        Raises:
            UsageError: Something has taken the name meanwhile, and `replace` is false.
            OSError: The rename failed.
        """
        if replace:
            exchange(self.path, self._target, self._sibling(_REPLACED, self._id()))
        else:
            try:
                rename_new(self.path, self._target)
            except FileExistsError as error:
                raise UsageError(
                    f"{self._shown}: has appeared during the {self._activity}",
                    hint=f"run the {self._activity} again",
                ) from error
        # From here on there is something in the parents.
        self._new_parents = []
        sync_renamed(self._target.parent)

    def close(self) -> None:
        """Remove what is not published, and what it replaced."""
        if self._path is not None:
            # After an exchange the old folder lies under one of these two names.
            replaced = self._sibling(_REPLACED, self._id())
            shutil.rmtree(self._path, ignore_errors=True)
            if os.path.lexists(self._target):
                shutil.rmtree(replaced, ignore_errors=True)
            elif os.path.isdir(replaced):
                # If even this fails, the next writer does it; the error that led here says more.
                with suppress(OSError):
                    os.rename(replaced, self._target)
        if self._lock is not None:
            os.close(self._lock)
        self._path = self._lock = None
        _remove_empty(self._new_parents)
        self._new_parents = []

    def _open(self) -> None:
        with _exclusive(self._target.parent):
            self._remove_leftovers()
            while True:
                # Known before it is made, so that an interruption in between leaves nothing.
                self._path = self._sibling(_PARTIAL, _new_id())
                with suppress(FileExistsError):
                    self._path.mkdir()
                    break
            self._lock = lock_folder(self._path)

    def _remove_leftovers(self) -> None:
        """Remove what killed writers to this target left; put back the folder that one was replacing.

        Raises:
            UsageError: One of them is alive.
        """
        for path in self._siblings(_PARTIAL):
            if _in_use(path):
                raise UsageError(
                    f"{self._shown}: another {self._activity} to it is running "
                    f"(process {int(path.name[-8:-2], 16)})",
                    hint="wait for it, or name another folder",
                )
            shutil.rmtree(path, ignore_errors=True)
        for path in self._siblings(_REPLACED):
            if os.path.lexists(self._target):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.rename(path, self._target)
                self.restored = True

    def _id(self) -> str:
        return self.path.name[-8:]

    def _sibling(self, kind: str, identity: str) -> Path:
        return self._target.with_name(f"{self._target.name}.{kind}-{identity}")

    def _siblings(self, kind: str) -> list[Path]:
        pattern = re.compile(re.escape(self._target.name) + rf"\.{kind}-[0-9a-f]{{8}}")
        with os.scandir(self._target.parent) as entries:
            names = [
                entry.name
                for entry in entries
                if pattern.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            ]
        return [self._target.parent / name for name in sorted(names)]


def _new_id() -> str:
    """A pid and two random digits: the pid lets a system without locks tell a live owner."""
    return f"{os.getpid() & 0xFFFFFF:06x}{secrets.randbelow(256):02x}"


def _make_parents(folder: Path) -> list[Path]:
    """Create the missing folders down to `folder`; returns those created, deepest first."""
    missing = []
    for parent in (folder, *folder.parents):
        if os.path.lexists(parent):
            break
        missing.append(parent)
    created: list[Path] = []
    try:
        for parent in reversed(missing):
            created.insert(0, parent)
            with suppress(FileExistsError):
                parent.mkdir()
    except BaseException:
        _remove_empty(created)
        raise
    return created


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        # Somebody else may have put something there, which then stays.
        with suppress(OSError):
            folder.rmdir()


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of the parent folder while a partial folder is made there: for milliseconds."""
    descriptor = _wait_for_lock(folder)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait_for_lock(folder: Path) -> int | None:
    deadline = time.monotonic() + _LOCK_SECONDS
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            return lock_folder(folder)
        time.sleep(0.02)
    raise UsageError(f"{folder}: is locked by another program", hint="end it, or write to another folder")


def _in_use(partial: Path) -> bool:
    """Whether the writer of a partial folder is alive."""
    try:
        descriptor = lock_folder(partial)
    except BlockingIOError:
        return True
    except FileNotFoundError:  # it has just come to its end
        return False
    if descriptor is not None:
        os.close(descriptor)
        return False
    # No locks here: ask for the process instead.
    if os.name == "nt":
        return True
    try:
        os.kill(int(partial.name[-8:-2], 16), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
