"""What a user calls a bundle, a folder or a Hub id, resolved to a local folder."""

from __future__ import annotations

import os
from pathlib import Path

from helium_edge.bundle.manifest import MANIFEST_NAME, read_manifest
from helium_edge.bundle.verify import Bundle
from helium_edge.errors import BundleError
from helium_edge.hub import download_file, download_snapshot, incomplete, parse_hub_id, refuse_revision

StrPath = str | os.PathLike[str]


def resolve_bundle(bundle: StrPath, *, revision: str | None = None) -> Path:
    """Find the local folder of a bundle, downloading it from the Hub if need be.

    What is on this machine wins over a Hub id of the same spelling. Of a repository, the manifest comes first,
    then the files that it lists, of the same commit; nothing else is downloaded.

    Args:
        bundle: Its folder, or a Hub id, which may carry its revision: `org/name@v1`.
        revision: Branch, tag or commit of a Hub id.

    Raises:
        BundleError: It cannot be downloaded, or the repository holds no bundle. A folder that is not there is left
            to whoever opens it.
        UsageError: `revision` is given for what has none.
        ResourceError: The disk is full.
    """
    named = _hub_id(bundle, revision)
    if named is None:
        return Path(os.path.expanduser(bundle))
    repository, wanted = named
    manifest = download_file(repository, wanted, MANIFEST_NAME, BundleError)
    if manifest is None:
        raise BundleError(
            f"{repository}: the repository holds no {MANIFEST_NAME}, so it is no bundle",
            hint="a bundle in a folder of a repository: `hf download` it and pass the folder",
        )
    files = [entry.path for entry in read_manifest(manifest).files]
    folder = download_snapshot(repository, manifest.parent.name, files, BundleError)
    if not all((folder / name).exists() for name in files):  # offline, the client gives what it has
        raise incomplete(repository, BundleError)
    return folder


def peek_bundle(bundle: str, *, revision: str | None = None) -> Bundle | None:
    """A bundle on the Hub of which the manifest alone is downloaded, unless its other files are there already.

    Returns:
        None for what is on this machine, is no bundle, or cannot be downloaded.

    Raises:
        BundleError: It is malformed.
        UsageError: Two revisions.
        ResourceError: The disk is full.
    """
    if os.path.lexists(os.path.expanduser(bundle)):
        return None
    try:
        named = parse_hub_id(bundle, revision, BundleError)
        found = None if named is None else download_file(*named, MANIFEST_NAME, BundleError)
    except BundleError:
        return None
    return None if found is None else Bundle(found.parent, read_manifest(found))


def _hub_id(bundle: StrPath, revision: str | None) -> tuple[str, str | None] | None:
    """Repository and revision of what is not on this machine; None for everything else."""
    source = os.fspath(bundle)
    path = os.path.expanduser(source)
    named = None if os.path.lexists(path) else parse_hub_id(source, revision, BundleError)
    if named is None:
        refuse_revision(source, revision)
    return named
