"""The list of a bundle's files with their checksums, the large ones hashed while other work is done."""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import Future
from pathlib import Path

from helium_edge import durable
from helium_edge.bundle.sections import PATH_PATTERN, FileEntry
from helium_edge.bundle.verify import scan_folder
from helium_edge.errors import BundleError

EARLY_BYTES = 64 << 20
"""Files from this size on are worth a thread."""

_Identity = tuple[int, int, int]


class FileListing:
    """Sizes and checksums of the files of a folder that is about to become a bundle.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._early: dict[str, tuple[_Identity, Future[tuple[int, str]]]] = {}

    def start(self) -> None:
        """Begin with the large files that are there now, one after the other in a thread of its own."""
        for name in scan_folder(self._folder).files:
            path = self._folder / name
            if path.stat().st_size >= EARLY_BYTES and name not in self._early:
                self._early[name] = _identity(path), Future()
        if self._early:
            # A daemon, so that an export that fails ends at once.
            threading.Thread(target=self._run, name="checksums", daemon=True).start()

    def entries(self) -> list[FileEntry]:
        """Hash every file that was not hashed yet, or changed since, and bring all to the disk.

        Raises:
            BundleError: A file has a name that no bundle may hold, or is no plain file.
            OSError: One cannot be read, or not be brought to the disk.
        """
        content = scan_folder(self._folder)
        odd = next(iter(content.odd), None)
        if odd is not None:
            raise BundleError(f"{odd}; a bundle holds plain files only")
        entries = []
        for name in content.files:
            if len(name) > 255 or not re.fullmatch(PATH_PATTERN, name):
                raise BundleError(f"{name!r} is no name for a file of a bundle", hint=f"allowed: {PATH_PATTERN}")
            size, sha256 = self._hash(name)
            entries.append(FileEntry(path=name, bytes=size, sha256=sha256))
        return entries

    def unchanged(self) -> set[str]:
        """The large files that were read for their checksums and have not changed since."""
        return {
            name
            for name, (identity, future) in self._early.items()
            if future.done() and _identity(self._folder / name) == identity
        }

    def _hash(self, name: str) -> tuple[int, str]:
        path = self._folder / name
        if name in self._early:
            identity, future = self._early[name]
            found = future.result()
            if _identity(path) == identity:
                return found
        return durable.hash_file(path, sync=True)

    def _run(self) -> None:
        for name, (_, future) in self._early.items():
            self._fulfil(name, future)

    def _fulfil(self, name: str, future: Future[tuple[int, str]]) -> None:
        try:
            future.set_result(durable.hash_file(self._folder / name, sync=True))
        except BaseException as error:  # for whoever asks for the result
            future.set_exception(error)


def _identity(path: Path) -> _Identity:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns
