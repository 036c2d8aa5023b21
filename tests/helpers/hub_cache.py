"""The cache of the Hugging Face Hub, built by hand."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path


def to_hub_cache(folder: Path, cache: Path, repository: str = "org/tiny") -> Path:
    """Move a bundle into a cache laid out as the Hub client does; returns its snapshot."""
    home = cache / f"models--{repository.replace('/', '--')}"
    snapshot = home / "snapshots" / ("a1" * 20)
    for part in (snapshot, home / "blobs", home / "refs"):
        part.mkdir(parents=True)
    (home / "refs" / "main").write_text(snapshot.name)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = home / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        path.replace(blob)
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    shutil.rmtree(folder)
    return snapshot
