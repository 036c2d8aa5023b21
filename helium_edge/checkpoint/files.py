"""Which files of a checkpoint folder may be opened: regular ones, inside the folder.

A link may lead anywhere, and some files are copied into a bundle that is then published; so links are refused,
except those of the Hub cache, where every file is a link into the `blobs` folder of its own repository.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from helium_edge.documents import DocumentError, parse_json, read_document
from helium_edge.errors import CheckpointError, too_many_files
from helium_edge.hub import is_hub_link


def find_file(folder: Path, name: str) -> Path | None:
    """Return `folder/name` when it is a regular file, None when there is nothing of that name.

    Raises:
        CheckpointError: It is a folder, a device, a link of no Hub cache, or not accessible.
    """
    path = folder / name
    linked = os.path.islink(path)
    if linked and not is_hub_link(path):
        raise CheckpointError(
            f"{path}: is a link, which is not followed", hint="put the file itself into the checkpoint folder"
        )
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        if not linked:
            return None
        raise CheckpointError(
            f"{path}: its content is missing from the Hub cache", hint="download the repository again"
        ) from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise CheckpointError(f"{path}: is not a regular file")
    return path


def read_object(path: Path, limit: int, *, hint: str = "") -> dict[str, Any]:
    """Read a JSON object.

    Args:
        path: The file.
        limit: Most bytes that it may have.
        hint: What to do about a malformed one, where its fault says nothing of that.

    Raises:
        CheckpointError: It cannot be read, or is no such file.
    """
    try:
        data = parse_json(read_document(path, limit))
    except OSError as error:
        raise too_many_files(error) or CheckpointError(f"{path.name}: cannot be read: {error.strerror}") from error
    except DocumentError as error:
        raise CheckpointError(f"{path.name}: {error}", hint=error.hint or hint) from error
    if not isinstance(data, dict):
        raise CheckpointError(
            f"{path.name}: the top level must be an object, found {type(data).__name__}", hint=hint
        )
    return data
