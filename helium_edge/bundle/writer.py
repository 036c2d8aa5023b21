"""`BundleWriter`: a bundle appears under its name whole and verified, or not at all.

Everything is written into a `PartialFolder` beside the target, brought to the disk, read back, and renamed once.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import final

from helium_edge import durable
from helium_edge.bundle.listing import FileListing
from helium_edge.bundle.manifest import MANIFEST_NAME, Manifest, check_manifest
from helium_edge.bundle.verify import scan_folder, verify_bundle
from helium_edge.durable import PartialFolder
from helium_edge.errors import HeliumEdgeError, ResourceError, UsageError

_DISK = frozenset({errno.EIO, errno.EROFS, errno.ENODEV, errno.ENXIO})
"""What a failing write says; it names no file. Reading a checkpoint has errors of its own."""


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
    if force and os.path.lexists(target / ".git"):
        raise UsageError(
            f"{out}: holds .git, and replacing the folder would lose it",
            hint="export to a new folder, and copy its files over these",
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
        self._partial = PartialFolder(out, shown=str(out), activity="export")
        self._needed: int | None = None
        self._listing: FileListing | None = None

    @property
    def folder(self) -> Path:
        """Where to write: beside the target, on the same file system."""
        return self._partial.path

    @property
    def _files(self) -> FileListing:
        if self._listing is None:
            self._listing = FileListing(self.folder)
        return self._listing

    def __enter__(self) -> BundleWriter:
        self._target = check_output(self._out, force=self._force)
        self._partial = PartialFolder(self._target, shown=str(self._out), activity="export")
        try:
            with self._os_errors():
                self._partial.__enter__()
            if self._partial.restored:
                check_output(self._out, force=self._force)
        except BaseException:
            self._partial.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The message wants the free space as it was when the error came.
        replacement = self._explain(error) if isinstance(error, OSError) else None
        self._partial.close()
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
            self._put_in_place()
        return self._target

    def _put_in_place(self) -> None:
        replace = self._force and os.path.lexists(self._target)
        if replace:
            # Looked at again: hours may have passed since the first look.
            check_output(self._target, force=True)
        self._partial.publish(replace=replace)

    @contextmanager
    def _os_errors(self) -> Iterator[None]:
        """Turn an `OSError` of our own file operations into an error for the user."""
        try:
            yield
        except OSError as error:
            raise self._explain(error) or self._failed(error) from error

    def _explain(self, error: OSError) -> HeliumEdgeError | None:
        """The error for the user, or None when this one is not about writing the bundle."""
        if error.errno in durable.NO_SPACE:
            return self._no_space(_free(self._target.parent))
        ours = self._partial.is_open and str(error.filename).startswith(str(self._partial.path))
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


def _free(folder: Path) -> int:
    existing = next(path for path in (folder, *folder.parents) if path.is_dir())
    return shutil.disk_usage(existing).free
