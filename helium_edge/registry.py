"""Which targets there are: a line each. This module imports none of them, and everything that names one asks here.

A target is a package with two modules: `options`, whose `Options` are what a recipe may say of it, and `target`,
whose `TARGET` is the plug-in (`helium_edge.targets.base.Target`). Both are imported when they are asked for, since
each target pulls in its runtime.
"""

from __future__ import annotations

import importlib
from typing import Any

from pydantic import BaseModel

TARGETS = {
    "onnx": "helium_edge.targets.onnx",
    "coreml": "helium_edge.targets.coreml",
    "xnnpack": "helium_edge.targets.xnnpack",
}
"""Package of each target, by the name that recipes and manifests use."""


def options_of(name: str) -> type[BaseModel]:
    """The model of a target's options in a recipe."""
    found: type[BaseModel] = importlib.import_module(f"{TARGETS[name]}.options").Options
    return found


def plugin_of(name: str) -> Any:
    """The target itself; see `helium_edge.targets.load_target`."""
    return importlib.import_module(f"{TARGETS[name]}.target").TARGET
