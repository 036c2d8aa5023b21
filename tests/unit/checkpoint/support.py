from __future__ import annotations

from pathlib import Path

import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
NORM = "model.norm.weight"


def refusal(folder: Path, kind: type[CheckpointError] = CheckpointError) -> str:
    """Open a checkpoint that must be refused; returns the whole message."""
    with pytest.raises(kind) as caught:
        open_checkpoint(str(folder))
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 600
    return text
