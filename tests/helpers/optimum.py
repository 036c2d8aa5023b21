"""The mark of tests that need the extra `optimum`, which has an environment of its own."""

from __future__ import annotations

import importlib.metadata

import pytest


def is_installed() -> bool:
    """Whether optimum-onnx is there; the name `optimum` tells nothing, we have a file below it."""
    try:
        importlib.metadata.version("optimum-onnx")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip them where it is not installed, unless they were asked for: `-m optimum` then fails."""
    if is_installed() or "optimum" in config.getoption("-m"):
        return
    skip = pytest.mark.skip(reason="the extra optimum is not installed; .ci/run tests it by itself")
    for item in items:
        if item.get_closest_marker("optimum") is not None:
            item.add_marker(skip)
