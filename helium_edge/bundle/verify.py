"""Verification: is a folder exactly the bundle that its manifest describes?

A changed, truncated, missing, extra or linked file, and any path that leaves the folder, is refused by name.
Links of the Hub cache are taken for the files they are, and what git, the Hub or a file manager leaves beside a
bundle is ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helium_edge import durable
from helium_edge.bundle.carriers import carrier_file, carrier_folder, holds_carriers
from helium_edge.bundle.manifest import MANIFEST_NAME, Manifest, read_manifest
from helium_edge.documents import DocumentError, parse_json, read_document, shorten
from helium_edge.errors import BundleError, UsageError
from helium_edge.hub import LFS_POINTER, is_hub_link

GENAI_CONFIG = "genai_config.json"

_MAX_GENAI_BYTES = 1 << 20
_SHOWN_PROBLEMS = 3
_SWAP_RETRIES = 20
_EXPORT_HINT = "`helium-edge export CHECKPOINT -o DIR` writes a bundle"
_COPY_HINT = "the bundle is damaged or was edited: copy or export it again"


@dataclass(frozen=True)
class Check:
    """One thing that was found right: the file or subject, and what was checked of it."""

    subject: str
    result: str


@dataclass(frozen=True)
class Bundle:
    """An opened bundle."""

    folder: Path
    manifest: Manifest

    def path(self, name: str) -> Path:
        """Path of one of its files."""
        return self.folder / name


@dataclass(frozen=True)
class FolderContent:
    """What lies below a folder, as sorted relative POSIX paths, the manifest left out."""

    files: tuple[str, ...]
    folders: tuple[str, ...]
    odd: tuple[str, ...]
    """What is neither a plain file nor a folder, each with what it is."""
    carriers: tuple[tuple[str, str], ...]
    """What does no harm beside a bundle, folders with a slash at the end, and what left it."""


def scan_folder(folder: Path, listed: Collection[str] = ()) -> FolderContent:
    """List everything below a bundle folder, without following links.

    Args:
        folder: The bundle.
        listed: Files of the bundle, which are none beside it, whatever their names.

    Raises:
        BundleError: The folder, or one below it, cannot be listed.
    """
    files: list[str] = []
    folders: list[str] = []
    odd: list[str] = []
    carriers: list[tuple[str, str]] = []
    pending = [""]
    while pending:
        base = pending.pop()
        try:
            with os.scandir(folder / base) as entries:
                for entry in entries:
                    path = f"{base}{entry.name}"
                    if entry.is_dir(follow_symlinks=False):
                        left_by = carrier_folder(path)
                        if left_by:
                            carriers.append((f"{path}/", left_by))
                            continue
                        if not holds_carriers(path):
                            folders.append(path)
                        pending.append(f"{path}/")
                        continue
                    left_by = "" if path in listed else carrier_file(path)
                    if left_by:
                        carriers.append((path, left_by))
                    elif path != MANIFEST_NAME:
                        files.append(path)
                    what = _oddity(entry)
                    if what:
                        odd.append(f"{_plain(path)} is {what}")
        except OSError as error:
            raise BundleError(f"{folder.name}/{base}: not readable: {error.strerror}") from error
    return FolderContent(tuple(sorted(files)), tuple(sorted(folders)), tuple(sorted(odd)), tuple(sorted(carriers)))


def _plain(path: str) -> str:
    """A path as one line of a message, whatever its name holds."""
    return path if path.isascii() and path.isprintable() else ascii(path)


def _oddity(entry: os.DirEntry[str]) -> str:
    linked = entry.is_symlink()
    if linked and not is_hub_link(Path(entry.path)):
        return "a symbolic link"
    if linked and not os.path.exists(entry.path):
        return "a link to a blob that the Hub cache lacks"
    if not entry.is_file():
        return "no plain file"
    return "a hard link" if entry.stat().st_nlink > 1 else ""


def verify_bundle(folder: Path, *, known: Collection[str] = ()) -> list[Check]:
    """Check a bundle against its manifest, reading every byte.

    Args:
        folder: The bundle.
        known: Files whose checksums in the manifest come from what lies there now; only their sizes are looked at.

    Returns:
        What was checked, in order.

    Raises:
        BundleError: What is wrong, by file; of several problems the first few.
    """
    return _verify(folder, _manifest_of(folder, sealed=True), known)


def _verify(folder: Path, manifest: Manifest, known: Collection[str] = ()) -> list[Check]:
    sizes = {entry.path: entry.bytes for entry in manifest.files}
    content = scan_folder(folder, sizes)
    _refuse(folder, [*content.odd, *_layout_problems(content, sizes)])
    checks = [Check(MANIFEST_NAME, f"schema {manifest.schema_version}, {len(sizes)} files listed")]
    checks += [Check(_plain(path), f"ignored: no part of the bundle ({what})") for path, what in content.carriers]
    problems = []
    for entry in manifest.files:
        sha256 = None if entry.path in known else entry.sha256
        problem = _content_problem(folder / entry.path, entry.path, entry.bytes, sha256)
        if problem:
            problems.append(problem)
        else:
            checks.append(Check(entry.path, f"{entry.bytes} bytes, sha256 as listed"))
    _refuse(folder, problems)
    if GENAI_CONFIG in sizes:
        _check_genai_config(folder / GENAI_CONFIG, sizes)
    return checks + [_check_onnx(folder, path, manifest, sizes) for path in sizes if path.endswith(".onnx")]


def open_bundle(path: Path, *, unverified: bool = False) -> Bundle:
    """Open a bundle.

    A bundle that is replaced while it is being read is read again, so the result belongs to one of the two.

    Args:
        path: The folder.
        unverified: Read only the manifest, and trust the files whatever they hold.

    Raises:
        BundleError: It is no bundle, or a damaged one.
        UsageError: Its name is not UTF-8.
    """
    durable.require_utf8(path, shown=str(path))
    for _ in range(_SWAP_RETRIES):
        before = _identity(path)
        try:
            manifest = _manifest_of(path, sealed=not unverified)
            if not unverified:
                _verify(path, manifest)
        except BundleError:
            if _identity(path) == before:
                raise
            continue
        if _identity(path) == before:
            return Bundle(path, manifest)
    raise BundleError(f"{path}: is being replaced all the time", hint="try again when the exports have ended")


def manifest_hash(bundle: Bundle) -> str:
    """sha256 of the manifest's file, which lists those of all others: what tells one bundle from another.

    Raises:
        BundleError: It is not readable any more.
    """
    try:
        return durable.hash_file(bundle.path(MANIFEST_NAME))[1]
    except OSError as error:
        raise BundleError(f"{bundle.folder}: {MANIFEST_NAME} is not readable: {error.strerror}") from error


def check_pin(folder: Path, sha256: str) -> None:
    """Refuse a bundle whose manifest is not the one that an app or a script was built for.

    Args:
        folder: The bundle.
        sha256: Of its `helium-edge.json`, in hexadecimal.

    Raises:
        BundleError: Its manifest has another one.
        UsageError: `sha256` is none.
    """
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise UsageError(f"{shorten(sha256)!r} is no sha256: 64 hexadecimal digits are expected")
    found = manifest_hash(Bundle(folder, _manifest_of(folder, sealed=True)))
    if found != sha256.lower():
        raise BundleError(
            f"{folder.name}: {MANIFEST_NAME} has the sha256 {found}, expected {sha256.lower()}",
            hint="it is another bundle, or another version of it",
        )


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    # With the times, because an inode that was freed is soon another folder's.
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _manifest_of(folder: Path, *, sealed: bool) -> Manifest:
    if (folder / MANIFEST_NAME).is_symlink() and not is_hub_link(folder / MANIFEST_NAME):
        raise BundleError(f"{folder}: {MANIFEST_NAME} is a symbolic link", hint=_COPY_HINT)
    if not (folder / MANIFEST_NAME).is_file():
        raise _no_bundle(folder)
    return read_manifest(folder / MANIFEST_NAME, sealed=sealed)


def _no_bundle(path: Path) -> BundleError:
    if not path.exists():
        return BundleError(
            f"{path}: no such folder", hint="`helium-edge export CHECKPOINT -o DIR` writes a bundle"
        )
    if path.name == MANIFEST_NAME or path.suffix == ".onnx":
        return BundleError(f"{path}: is a file of a bundle", hint=f"name its folder: {path.parent}")
    if not path.is_dir():
        return BundleError(f"{path}: is no bundle but a file", hint=f"a bundle is a folder with a {MANIFEST_NAME}")
    if (path / "config.json").is_file() and any(path.glob("*.safetensors")):
        return BundleError(
            f"{path}: is a checkpoint, no bundle", hint=f"export it first: helium-edge export {path} -o DIR"
        )
    if ".partial-" in path.name:
        return BundleError(f"{path}: is an export that did not end", hint="export again; it will be removed")
    below = sorted(child.parent.name for child in path.glob(f"*/{MANIFEST_NAME}"))
    hint = (
        f"did you mean {path / below[0]}?" if below else "`helium-edge export CHECKPOINT -o DIR` writes a bundle"
    )
    return BundleError(f"{path}: is no bundle, it holds no {MANIFEST_NAME}", hint=hint)


def _refuse(folder: Path, problems: list[str]) -> None:
    if problems:
        shown = "; ".join(problems[:_SHOWN_PROBLEMS])
        more = len(problems) - _SHOWN_PROBLEMS
        raise BundleError(f"{folder.name}: {shown}{f'; and {more} more' if more > 0 else ''}", hint=_COPY_HINT)


def _layout_problems(content: FolderContent, sizes: dict[str, int]) -> Iterator[str]:
    yield from (f"{path} is missing" for path in sizes if path not in content.files)
    yield from (f"{_plain(path)} is not listed in the manifest" for path in content.files if path not in sizes)
    used = {parent for path in sizes for parent in _parents(path)}
    yield from (f"{_plain(path)}/ is not listed in the manifest" for path in content.folders if path not in used)


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _content_problem(file: Path, path: str, size: int, sha256: str | None) -> str:
    try:
        found = file.stat().st_size
        if found < size and _is_lfs_pointer(file):
            return f"{path} is a Git LFS pointer, not the file: `git lfs pull` in the folder fetches it"
        if found < size:
            return f"{path} is truncated: {found} bytes, listed {size}"
        if found > size:
            return f"{path} has {found} bytes, listed {size}"
        same = sha256 is None or durable.hash_file(file)[1] == sha256
    except OSError as error:
        return f"{path} is not readable: {error.strerror}"
    return "" if same else f"{path} was changed: its sha256 is not the one listed"


def _is_lfs_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER


def _check_onnx(folder: Path, path: str, manifest: Manifest, sizes: dict[str, int]) -> Check:
    # onnx takes long to import, and bundles for other runtimes do without it.
    from helium_edge.bundle.onnx_check import check_onnx_file

    graph = next((graph for graph in manifest.graphs if graph.file == path), None)
    external = check_onnx_file(folder, path, sizes, graph)
    subject = "inputs and outputs as listed, " if graph else ""
    return Check(path, f"{subject}{external} external tensors inside the bundle")


def _check_genai_config(file: Path, sizes: dict[str, int]) -> None:
    """onnxruntime-genai loads what this file names, so it must name files of the bundle only."""
    try:
        document = parse_json(read_document(file, _MAX_GENAI_BYTES))
    except OSError as error:
        raise BundleError(f"{GENAI_CONFIG}: not readable: {error.strerror}") from error
    except DocumentError as error:
        raise BundleError(f"{GENAI_CONFIG}: {error}") from error
    for key, value in _walk(document):
        if key == "custom_ops_library":
            raise BundleError(f"{GENAI_CONFIG}: {key} = {shorten(repr(value))} would load code; allowed: none")
        if key == "filename" and not (isinstance(value, str) and value in sizes):
            raise BundleError(f"{GENAI_CONFIG}: {key} = {shorten(repr(value))} is no file of the bundle")


def _walk(node: Any) -> Iterator[tuple[str, Any]]:
    pending = [node]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            yield from node.items()
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
