"""`BundleWriter`: a bundle appears under its name whole and verified, or not at all.

Everything is written into `<out>.partial-<id>` beside the target, brought to the disk, read back, and renamed
once. The folder being written is locked, so that a second exporter to the same target is refused, and so that
what a killed one left behind can be told from what is in use, and removed.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import final

from helium_edge.bundle import durable
from helium_edge.bundle.listing import FileListing
from helium_edge.bundle.manifest import MANIFEST_NAME, Manifest, check_manifest
from helium_edge.bundle.verify import scan_folder, verify_bundle
from helium_edge.errors import HeliumEdgeError, ResourceError, UsageError

_NO_SPACE = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_DISK = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO})
"""What a failing write says; it names no file. Reading a checkpoint has errors of its own."""

_LOCK_SECONDS = 10.0
_PARTIAL = "partial"
_REPLACED = "replaced"


def check_output(out: Path, *, force: bool) -> Path:
    """Refuse a target that must not be written, before anything is; see `BundleWriter`.

    Returns:
        The absolute path of the target, with links above it resolved.

    Raises:
        UsageError: The target exists and `force` is false, or it is something that is never replaced.
    """
    try:
        return _checked(out, _absolute(out), force=force)
    except OSError as error:  # a name or a path that is too long, a folder that may not be looked into
        raise UsageError(
            f"{_shown(out)}: cannot be written: {error.strerror}", hint="name another folder"
        ) from error


def _checked(out: Path, target: Path, *, force: bool) -> Path:
    if target.is_symlink():
        raise UsageError(f"{out}: is a symbolic link; a bundle is a folder of its own", hint="name a new folder")
    if not os.path.lexists(target):
        _check_parent(target, out)
        return target
    if not target.is_dir():
        raise UsageError(f"{out}: exists and is no folder", hint="name a new folder")
    if not _replaceable(target):
        raise UsageError(
            f"{out}: exists and is no bundle, so it is never replaced, not even with --force",
            hint="name a new folder",
        )
    if not force:
        raise UsageError(f"{out}: exists", hint="replace it with --force, or name a new folder")
    return target


@final
class BundleWriter:
    """Writes one bundle; a context manager.

    Files go into `folder`. Leaving the block without `publish`, or by any exception, removes that folder. Parent
    folders that are missing are created, and removed again when nothing was published.

    Args:
        out: The target folder.
        force: Replace the target if it is a bundle or an empty folder; nothing else is ever replaced.

    Raises:
        UsageError: On entering: the target must not be written, or another export to it is running.
        ResourceError: No space is left on the device, also for an `OSError` that leaves the block.
    """

    def __init__(self, out: Path, *, force: bool = False) -> None:
        self._out = out
        self._force = force
        self._target = out
        self._partial: Path | None = None
        self._lock: int | None = None
        self._new_parents: list[Path] = []
        self._needed: int | None = None
        self._listing: FileListing | None = None

    @property
    def folder(self) -> Path:
        """Where to write: beside the target, on the same file system."""
        if self._partial is None:
            raise HeliumEdgeError("BundleWriter.folder is only there inside its with block")
        return self._partial

    @property
    def _files(self) -> FileListing:
        if self._listing is None:
            self._listing = FileListing(self.folder)
        return self._listing

    def __enter__(self) -> BundleWriter:
        self._target = check_output(self._out, force=self._force)
        try:
            with self._os_errors():
                self._new_parents = _make_parents(self._target.parent)
                self._open_partial()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The message wants the free space as it was when the error came.
        replacement = self._explain(error) if isinstance(error, OSError) else None
        self._clean_up()
        if replacement is not None:
            raise replacement from error

    def require_space(self, nbytes: int) -> None:
        """Refuse early when `nbytes` do not fit on the target's file system.

        Raises:
            ResourceError: They do not.
        """
        self._needed = nbytes
        free = shutil.disk_usage(self.folder).free
        if nbytes > free:
            raise self._no_space(free)

    def start_hashing(self) -> None:
        """Begin with the checksums of the large files, which nothing changes any more, in another thread."""
        with self._os_errors():
            self._files.start()

    def publish(self, manifest: Manifest) -> Path:
        """List and hash the files, write the manifest, verify everything by reading it back, and rename.

        Large files are not read once more when they are still as they were read for their checksums.

        Args:
            manifest: Complete but for its `files`.

        Returns:
            The bundle, under its final name.

        Raises:
            BundleError: What was written is not a whole bundle.
            ResourceError: No space is left.
            UsageError: The target has appeared in the meantime, or cannot be replaced.
        """
        folder = self.folder
        with self._os_errors():
            manifest = manifest.with_files(self._files.entries())
            check_manifest(manifest)
            durable.write_file(folder / MANIFEST_NAME, manifest.to_json().encode("utf-8"))
            for name in (*scan_folder(folder).folders, "."):
                durable.sync_folder(folder / name)
            verify_bundle(folder, known=self._files.unchanged())
            self._put_in_place(folder)
        return self._target

    def _put_in_place(self, folder: Path) -> None:
        if self._force and os.path.lexists(self._target):
            # Looked at again: hours may have passed since the first look.
            check_output(self._target, force=True)
            durable.exchange(folder, self._target, self._sibling(_REPLACED, self._id()))
        else:
            try:
                durable.rename_new(folder, self._target)
            except FileExistsError as error:
                raise UsageError(f"{self._out}: has appeared during the export", hint="export again") from error
        # From here on there is something in the parents.
        self._new_parents = []
        durable.sync_folder(self._target.parent)

    def _open_partial(self) -> None:
        with _exclusive(self._target.parent):
            self._remove_leftovers()
            while True:
                # A pid and two random digits: the pid lets a system without locks tell a live owner.
                identity = f"{os.getpid() & 0xFFFFFF:06x}{secrets.randbelow(256):02x}"
                # Known before it is made, so that an interruption in between leaves nothing.
                self._partial = self._sibling(_PARTIAL, identity)
                with suppress(FileExistsError):
                    self._partial.mkdir()
                    break
            self._lock = durable.lock_folder(self._partial)

    def _remove_leftovers(self) -> None:
        """Remove what killed exporters to this target left; restore the bundle that one was replacing.

        Raises:
            UsageError: One of them is alive.
        """
        for path in self._siblings(_PARTIAL):
            if _in_use(path):
                raise UsageError(
                    f"{self._out}: another export to it is running (process {int(path.name[-8:-2], 16)})",
                    hint="wait for it, or name another folder",
                )
            shutil.rmtree(path, ignore_errors=True)
        for path in self._siblings(_REPLACED):
            if os.path.lexists(self._target):
                shutil.rmtree(path, ignore_errors=True)
            else:
                os.rename(path, self._target)
                check_output(self._out, force=self._force)

    def _clean_up(self) -> None:
        if self._partial is not None:
            # After an exchange the old bundle lies under one of these two names.
            replaced = self._sibling(_REPLACED, self._id())
            shutil.rmtree(self._partial, ignore_errors=True)
            if os.path.lexists(self._target):
                shutil.rmtree(replaced, ignore_errors=True)
            elif os.path.isdir(replaced):
                # If even this fails, the next export does it; the error that led here says more.
                with suppress(OSError):
                    os.rename(replaced, self._target)
        if self._lock is not None:
            os.close(self._lock)
        self._partial = self._lock = None
        _remove_empty(self._new_parents)
        self._new_parents = []

    def _id(self) -> str:
        return self.folder.name[-8:]

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

    @contextmanager
    def _os_errors(self) -> Iterator[None]:
        """Turn an `OSError` of our own file operations into an error for the user."""
        try:
            yield
        except OSError as error:
            raise self._explain(error) or self._failed(error) from error

    def _explain(self, error: OSError) -> HeliumEdgeError | None:
        """The error for the user, or None when this one is not about writing the bundle."""
        if error.errno in _NO_SPACE:
            return self._no_space(_free(self._target.parent))
        ours = self._partial is not None and str(error.filename).startswith(str(self._partial))
        if ours or (error.filename is None and error.errno in _DISK):
            return self._failed(error)
        return None

    def _failed(self, error: OSError) -> HeliumEdgeError:
        kind = ResourceError if error.errno == errno.EIO else UsageError
        return kind(f"{_shown(self._out)}: cannot be written: {error.strerror or error}")

    def _no_space(self, free: int) -> ResourceError:
        needed = f"{self._needed} bytes are needed, " if self._needed is not None else ""
        return ResourceError(
            f"{self._out}: no space left for the bundle: {needed}{free} are free in {self._target.parent}",
            hint="free some space, or write to another disk",
        )


def _shown(out: Path) -> str:
    text = str(out)
    return text if len(text) <= 300 else f"{text[:300]}..."


def _absolute(out: Path) -> Path:
    """Resolve links above the target but not the target itself."""
    if out.name in ("", ".."):
        return Path(os.path.realpath(out))
    return Path(os.path.realpath(out.parent)) / out.name


def _check_parent(target: Path, out: Path) -> None:
    existing = next(parent for parent in target.parents if os.path.lexists(parent))
    if not existing.is_dir():
        raise UsageError(f"{out}: cannot be written, {existing} is no folder")


def _replaceable(target: Path) -> bool:
    manifest = target / MANIFEST_NAME
    if manifest.is_file() and not manifest.is_symlink():
        return True
    try:
        with os.scandir(target) as entries:
            return next(entries, None) is None
    except OSError:
        return False


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
            return durable.lock_folder(folder)
        time.sleep(0.02)
    raise UsageError(f"{folder}: is locked by another program", hint="end it, or write to another folder")


def _in_use(partial: Path) -> bool:
    """Whether the exporter that made a partial folder is alive."""
    try:
        descriptor = durable.lock_folder(partial)
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


def _free(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(existing).free
