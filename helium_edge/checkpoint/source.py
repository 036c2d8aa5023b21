"""What a user calls a checkpoint (a folder, a Hub id, `helium-tiny`) resolved to a local folder."""

from __future__ import annotations

import errno
import importlib.resources
import os
import re
from dataclasses import dataclass
from pathlib import Path

from helium_edge import durable
from helium_edge.chat import TEMPLATE_FOLDER
from helium_edge.checkpoint.files import hub_cache_identity
from helium_edge.documents import first_line
from helium_edge.errors import CheckpointError, InputError, ResourceError, UsageError, did_you_mean
from helium_edge.presets import PRESETS

BUILTIN = "helium-tiny"
"""The trained checkpoint that ships inside the package."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
"""What belongs to a tokenizer; only `tokenizer.json` must be there."""

# Nothing else of a repository is downloaded: no pickle, no code, no weights of other formats.
DOWNLOADED = (
    "config.json",
    "generation_config.json",
    "README.md",  # licence and languages, for the model card
    "model*.safetensors",
    "model.safetensors.index.json",
    "adapter_config.json",  # that there is an adapter must be known, or the base would be taken for the fine-tune
    "adapter_model.safetensors",
    *TOKENIZER_FILES,
    f"{TEMPLATE_FOLDER}/*.jinja",
)

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*", re.ASCII)
_KINDS = f"a folder with config.json and *.safetensors, a Hub id such as org/name, or {BUILTIN}"


@dataclass(frozen=True)
class Source:
    """A resolved checkpoint: its folder, what to call it, and its commit when it is from the Hub."""

    folder: Path
    label: str
    revision: str | None


def resolve_source(source: str, *, revision: str | None = None) -> Source:
    """Find the local folder of a checkpoint, downloading it from the Hub if need be.

    `helium-tiny` always means the checkpoint of the package (`./helium-tiny` is a folder); any other existing
    folder wins over a Hub id of the same spelling. A Hub id may carry its revision, as `org/name@v1`.

    Raises:
        CheckpointError: Nothing is there, or it cannot be downloaded.
        UsageError: `revision` is given for what has none.
        ResourceError: The disk is full.
    """
    path = os.path.expanduser(source)  # a str, because Path("") would be the current folder
    if source == BUILTIN:
        folder = Path(str(importlib.resources.files("helium_edge.data") / BUILTIN))
        found = Source(folder, BUILTIN, None)
    elif os.path.isdir(path):  # unlike Path.is_dir, False for names that no file system takes
        found = _local(Path(path))
    elif os.path.exists(path):
        raise CheckpointError(f"{source}: is a file", hint="pass the folder that holds it and its config.json")
    else:
        return _from_hub(source, revision)
    if revision is not None:
        raise UsageError(
            f"--revision {revision} applies to Hub ids only, {source!r} is a local folder",
            hint="leave out --revision",
        )
    return found


def _local(folder: Path) -> Source:
    durable.require_utf8(folder, shown=str(folder))
    identity = hub_cache_identity(folder)
    if identity is not None:
        return Source(folder, *identity)
    return Source(folder, folder.resolve().name or "checkpoint", None)


def _from_hub(source: str, revision: str | None) -> Source:
    repository, _, suffix = source.partition("@")
    if not _HUB_ID.fullmatch(repository):
        raise _no_such_folder(source)
    parent = repository.split("/")[0]
    if os.path.isdir(parent):
        raise CheckpointError(
            f"{source}: no such folder; {parent!r} is a folder here, so this was taken for a path",
            hint=f"if a Hub id is meant, `hf download {repository}` and pass the folder that it prints",
        )
    if suffix and revision is not None and suffix != revision:
        raise UsageError(f"two revisions are given: {source!r} and --revision {revision}", hint="keep one")
    return _download(repository, revision if revision is not None else suffix or None)


def _no_such_folder(source: str) -> CheckpointError:
    if source in PRESETS:
        return CheckpointError(
            f"{source}: no such folder; as a preset it is a shape without weights, for inspect and --dry-run",
            hint=f"the weights are kyutai/{source} on the Hub",
        )
    close = did_you_mean(source, [BUILTIN])
    guess = close if close.startswith("did you mean") else f"a checkpoint is {_KINDS}"
    shown = source if len(source) <= 200 else source[:200] + "..."
    return CheckpointError(f"{shown!r}: no such folder", hint=guess)


def _download(repository: str, revision: str | None) -> Source:
    # Imported here: it costs a noticeable part of a second and most runs are on local folders.
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=list(DOWNLOADED)))
    except Exception as error:
        # The client raises errors of whatever HTTP library its version uses: all become ours at this boundary.
        raise _hub_error(error, repository, revision) from error
    return Source(folder, repository, folder.name)


def _hub_error(error: Exception, repository: str, revision: str | None) -> InputError | ResourceError:
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        GatedRepoError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    elsewhere = f"`hf download {repository}` where there is a network and pass the folder"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return ResourceError(
            f"no space left while downloading {repository}", hint="free some, or set HF_HOME to another disk"
        )
    if isinstance(error, GatedRepoError):
        return CheckpointError(
            f"{repository}: access on the Hub is gated",
            hint="accept the terms on its page on the Hub, then `hf auth login`",
        )
    if isinstance(error, RepositoryNotFoundError):
        return CheckpointError(
            f"{repository}: no such folder here and no such repository on the Hub, or a private one",
            hint="check the spelling; for a private repository `hf auth login`",
        )
    if isinstance(error, RevisionNotFoundError):
        return CheckpointError(
            f"{repository}: the Hub has no revision {revision!r} of it",
            hint="--revision takes a branch, a tag or a commit",
        )
    if isinstance(error, OfflineModeIsEnabled) or (
        isinstance(error, LocalEntryNotFoundError) and constants.HF_HUB_OFFLINE
    ):
        return CheckpointError(
            f"{repository}: not complete in the local Hub cache, and HF_HUB_OFFLINE forbids to download it",
            hint=f"unset HF_HUB_OFFLINE, or {elsewhere}",
        )
    if isinstance(error, LocalEntryNotFoundError):
        return CheckpointError(
            f"{repository}: not complete in the local Hub cache, and the Hub cannot be reached",
            hint=f"check the network and the proxy settings, or {elsewhere}",
        )
    return CheckpointError(
        f"{repository}: the download from the Hub failed: {first_line(error)}", hint=f"try again, or {elsewhere}"
    )
