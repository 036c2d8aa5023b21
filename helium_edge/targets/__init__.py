"""Targets: each writes the graphs of one runtime from the quantized store; they know nothing of each other."""

from __future__ import annotations

import importlib

from helium_edge.errors import RecipeError, did_you_mean
from helium_edge.targets.artifact import Artifact, StoredCodes, WeightDifference
from helium_edge.targets.base import BuiltGraph, Target

# Module and class by the name that recipes use; imported when asked for, since each pulls in its runtime.
TARGETS = {
    "onnx": "helium_edge.targets.onnx.target:OnnxTarget",
    "coreml": "helium_edge.targets.coreml.target:CoremlTarget",
    "xnnpack": "helium_edge.targets.xnnpack.target:XnnpackTarget",
}


def load_target(name: str) -> Target:
    """The target of that name.

    Raises:
        RecipeError: No such target.
        MissingDependencyError: Its optional packages are not installed.
    """
    if name not in TARGETS:
        raise RecipeError(f"no target named {name!r}", hint=did_you_mean(name, TARGETS))
    module, attribute = TARGETS[name].split(":")
    target: Target = getattr(importlib.import_module(module), attribute)()
    return target


__all__ = [
    "TARGETS",
    "Artifact",
    "BuiltGraph",
    "StoredCodes",
    "Target",
    "WeightDifference",
    "load_target",
]
