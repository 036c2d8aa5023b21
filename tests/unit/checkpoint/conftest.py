from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.checkpoints import make_checkpoint


@pytest.fixture
def single(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model", shards=2)
