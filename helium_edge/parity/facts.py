"""What a report says of its subject and of the machine, so that a figure can be traced."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from typing import Any

import helium_edge
from helium_edge.bundle import Bundle
from helium_edge.texts import Window


def subject(bundle: Bundle) -> dict[str, Any]:
    """The bundle: recipe, target, runtime, checkpoint, files."""
    manifest = bundle.manifest
    sizes = {path.name: path.stat().st_size for path in sorted(bundle.folder.iterdir()) if path.is_file()}
    return {
        "bundle": bundle.folder.name,
        "recipe": manifest.quantization.recipe["name"],
        "target": manifest.target.name,
        "runtime": manifest.runtime,
        "checkpoint": manifest.source.checkpoint,
        "checkpoint_sha256": _digest(manifest.source.files),
        "recipe_sha256": _digest(manifest.quantization.recipe),
        "files": [{"path": name, "bytes": size} for name, size in sizes.items()],
        "bytes": sum(sizes.values()),
    }


def environment(bundle: Bundle, threads: int) -> dict[str, Any]:
    """Versions, processor and threads."""
    found = {
        "helium_edge": helium_edge.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads or "chosen by the runtime",
    }
    for package in ("torch", "transformers", bundle.manifest.runtime):
        with suppress(metadata.PackageNotFoundError):  # the original may have been left out
            found[package] = metadata.version(package)
    return found


def text(source: str, windows: Sequence[Window]) -> dict[str, Any]:
    """The text: where it is from, how much of it, and a hash of its tokens."""
    tokens = [[window.language, list(window.tokens)] for window in windows]
    return {
        "source": source,
        "languages": list(dict.fromkeys(window.language for window in windows)),
        "windows": len(windows),
        "tokens": sum(len(window.tokens) - 1 for window in windows),
        "sha256": _digest(tokens),
    }


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
