from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so before everything else

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.optimum import pytest_collection_modifyitems

__all__ = ["pytest_collection_modifyitems"]

torch.set_num_threads(2)


@pytest.fixture(autouse=True)
def _seed() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - for libraries that use the global generator
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer checkpoint; read it, never write to it."""
    return make_checkpoint(tmp_path_factory.mktemp("tiny") / "tiny")
