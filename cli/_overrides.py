"""Options of `export` that replace a part of its recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from helium_edge.errors import UsageError

from ._format import command_line

if TYPE_CHECKING:
    from helium_edge.recipe import Recipe


ALIASES = {"executorch": "xnnpack"}
"""Other words for a target: ExecuTorch is a runtime, and on CPUs its delegate is XNNPACK."""


def override(name: str, targets: Sequence[str], *, fast: bool = False, **shapes: int | None) -> Recipe:
    """Load a recipe and apply the options that replace a part of it.

    Raises:
        RecipeError: The recipe is unknown or malformed.
        UsageError: An option does not fit it.
    """
    from pydantic import ValidationError

    from helium_edge.recipe import load_recipe

    recipe = load_recipe(name)
    if fast:
        recipe = recipe.fast()
    try:
        return recipe.override([ALIASES.get(target, target) for target in targets], **shapes)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        option = "--" + str(problem["loc"][-1]).replace("_", "-")
        raise UsageError(
            f"{option} {problem['input']}: {problem['msg']}", hint=f"see `{command_line('export', '--help')}`"
        ) from error
