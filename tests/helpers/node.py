"""Node and the packages that foreign hosts are made of, where they are installed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

VARIABLE = "HELIUM_EDGE_NODE_MODULES"
"""Names a node_modules made from tests/node/package.json."""


def node_modules(package: str) -> Path:
    """The folder that holds an npm package; the test is skipped where there is none."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} names no node_modules made from tests/node/package.json")
    if not (Path(folder) / package / "package.json").is_file():
        pytest.skip(f"{folder} has no {package}")
    return Path(folder)


def node() -> str:
    """The program; the test is skipped where there is none."""
    found = shutil.which("node")
    if found is None:
        pytest.skip("node is not installed")
    return found
