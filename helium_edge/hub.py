"""The Hugging Face Hub: ids, downloads, and how its cache lies on the disk.

A repository is cached as `models--ORG--NAME`. Its `blobs` are the files, each under the name of its hash, and
`snapshots/COMMIT` has a link for each file of that commit, `../../blobs/HASH`. Checkpoints and bundles are read
out of such folders; no other link is ever followed.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Sequence
from pathlib import Path

from helium_edge.documents import first_line
from helium_edge.errors import InputError, ResourceError, UsageError

LFS_POINTER = b"version https://git-lfs"
"""How the file begins that stands for a large one in a clone without `git lfs pull`."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)


def snapshot_identity(folder: Path) -> tuple[str, str] | None:
    """Return (repository id, commit) when `folder` is a snapshot in the Hub cache, else None."""
    real = Path(os.path.realpath(folder))
    if not _is_snapshot(real):
        return None
    return real.parent.parent.name.removeprefix("models--").replace("--", "/"), real.name


def is_hub_link(path: Path) -> bool:
    """Whether a link is the Hub's own: in a snapshot, or a folder below, and to a blob of the same repository."""
    real = Path(os.path.realpath(path.parent))
    snapshot = next((folder for folder in (real, *real.parents) if _is_snapshot(folder)), None)
    return snapshot is not None and Path(os.path.realpath(path)).parent == snapshot.parent.parent / "blobs"


def _is_snapshot(real: Path) -> bool:
    return real.parent.name == "snapshots" and real.parent.parent.name.startswith("models--")


def parse_hub_id(source: str, revision: str | None, kind: type[InputError]) -> tuple[str, str | None] | None:
    """Return (repository id, revision) of what is no path on this machine; None when it is no Hub id.

    Args:
        source: `org/name`, or with its revision, `org/name@v1`.
        revision: Given beside it.
        kind: Raised when a path was rather meant.

    Raises:
        InputError: Of `kind`: its first part is a folder here.
        UsageError: Two different revisions.
    """
    repository, _, suffix = source.partition("@")
    if not _HUB_ID.fullmatch(repository):
        return None
    parent = repository.split("/")[0]
    if os.path.isdir(parent):
        raise kind(
            f"{source}: no such folder; {parent!r} is a folder here, so this was taken for a path",
            hint=f"if a Hub id is meant, `hf download {repository}` and pass the folder that it prints",
        )
    if suffix and revision is not None and suffix != revision:
        raise UsageError(f"two revisions are given: {source!r} and --revision {revision}", hint="keep one")
    return repository, revision if revision is not None else suffix or None


def refuse_revision(source: str, revision: str | None) -> None:
    """Refuse a revision of what is on this machine.

    Raises:
        UsageError: One is given.
    """
    if revision is not None:
        raise UsageError(
            f"--revision {revision} applies to Hub ids only, {source!r} is a local folder",
            hint="leave out --revision",
        )


def download_snapshot(
    repository: str, revision: str | None, patterns: Sequence[str], kind: type[InputError]
) -> Path:
    """Download the files of a repository that match `patterns`; what the cache has is not fetched again.

    Returns:
        The folder of the commit in the Hub cache. Offline, it holds what the cache has.

    Raises:
        InputError: Of `kind`: it cannot be had.
        ResourceError: The disk is full.
    """
    # Imported here: it costs a noticeable part of a second and most runs are on local folders.
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:
        # The client raises errors of whatever HTTP library its version uses: all become ours at this boundary.
        raise _hub_error(error, repository, revision, kind) from error


def download_file(repository: str, revision: str | None, name: str, kind: type[InputError]) -> Path | None:
    """Download one file; None when the repository has none of that name.

    Raises:
        InputError: Of `kind`: it cannot be had.
        ResourceError: The disk is full.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except Exception as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        raise _hub_error(error, repository, revision, kind) from error


def incomplete(repository: str, kind: type[InputError]) -> InputError:
    """The error for a repository of which the cache lacks something that cannot be downloaded now."""
    from huggingface_hub import constants

    elsewhere = _elsewhere(repository)
    if constants.HF_HUB_OFFLINE:
        return kind(
            f"{repository}: not complete in the local Hub cache, and HF_HUB_OFFLINE forbids to download it",
            hint=f"unset HF_HUB_OFFLINE, or {elsewhere}",
        )
    return kind(
        f"{repository}: not complete in the local Hub cache, and the Hub cannot be reached",
        hint=f"check the network and the proxy settings, or {elsewhere}",
    )


def _elsewhere(repository: str) -> str:
    return f"`hf download {repository}` where there is a network and pass the folder"


def _hub_error(
    error: Exception, repository: str, revision: str | None, kind: type[InputError]
) -> InputError | ResourceError:
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"no space left while downloading {repository}", hint="free some, or set HF_HOME to another disk"
        )
    if isinstance(error, GatedRepoError):
        return kind(
            f"{repository}: access on the Hub is gated",
            hint="accept the terms on its page on the Hub, then `hf auth login`",
        )
    if isinstance(error, RepositoryNotFoundError):
        return kind(
            f"{repository}: no such folder here and no such repository on the Hub, or a private one",
            hint="check the spelling; for a private repository `hf auth login`",
        )
    if isinstance(error, RevisionNotFoundError):
        return kind(
            f"{repository}: the Hub has no revision {revision!r} of it",
            hint="--revision takes a branch, a tag or a commit",
        )
    if isinstance(error, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
        return incomplete(repository, kind)
    return kind(
        f"{repository}: the download from the Hub failed: {first_line(error)}",
        hint=f"try again, or {_elsewhere(repository)}",
    )
