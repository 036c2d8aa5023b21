"""Folders of data for tests of evaluation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_data(folder: Path, task: str, test: Sequence[Any], shots: Sequence[Any] = ()) -> Path:
    """A folder of `--data` with one task."""
    place = folder / task
    place.mkdir(parents=True, exist_ok=True)
    for name, documents in (("test", test), ("shots", shots)):
        if documents:
            lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in documents]
            (place / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder
