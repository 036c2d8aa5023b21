"""What a user calls a checkpoint (a folder, a Hub id, `helium-tiny`) resolved to a local folder."""

from __future__ import annotations

import importlib.resources
import os
from dataclasses import dataclass
from pathlib import Path

from helium_edge import durable
from helium_edge.chat import TEMPLATE_FOLDER
from helium_edge.errors import CheckpointError, did_you_mean
from helium_edge.hub import download_snapshot, parse_hub_id, refuse_revision, snapshot_identity
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
    refuse_revision(source, revision)
    return found


def _local(folder: Path) -> Source:
    durable.require_utf8(folder, shown=str(folder))
    identity = snapshot_identity(folder)
    if identity is not None:
        return Source(folder, *identity)
    return Source(folder, folder.resolve().name or "checkpoint", None)


def _from_hub(source: str, revision: str | None) -> Source:
    named = parse_hub_id(source, revision, CheckpointError)
    if named is None:
        raise _no_such_folder(source)
    repository, revision = named
    folder = download_snapshot(repository, revision, DOWNLOADED, CheckpointError)
    return Source(folder, repository, folder.name)


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
