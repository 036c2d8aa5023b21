"""Targets: each writes the graphs of one runtime from the quantized store; they know nothing of each other.

Options of targets are imported with recipes: nothing here may be slow to import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from helium_edge.errors import RecipeError, did_you_mean
from helium_edge.registry import TARGETS, plugin_of

if TYPE_CHECKING:
    from helium_edge.targets.base import Target


def load_target(name: str) -> Target:
    """The target of that name.

    Raises:
        RecipeError: No such target.
        MissingDependencyError: Its optional packages are not installed.
    """
    if name not in TARGETS:
        raise RecipeError(f"no target named {name!r}", hint=did_you_mean(name, TARGETS))
    found: Target = plugin_of(name)
    return found


__all__ = ["TARGETS", "load_target"]
