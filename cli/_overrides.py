"""Options of `export` that replace a part of its recipe."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from helium_edge.errors import UsageError, did_you_mean

from ._format import command_line

if TYPE_CHECKING:
    from helium_edge.recipe import Recipe


ALIASES = {"executorch": "xnnpack"}
"""Other words for a target: ExecuTorch is a runtime, and on CPUs its delegate is XNNPACK."""


def override(name: str, targets: Sequence[str], **shapes: int | None) -> Recipe:
    """Load a recipe and apply the options that replace a part of it.

    Raises:
        RecipeError: The recipe is unknown or malformed.
        UsageError: An option does not fit it.
    """
    from pydantic import ValidationError

    from helium_edge.recipe import Recipe, Targets, load_recipe

    recipe = load_recipe(name)
    targets = [ALIASES.get(target, target) for target in targets]
    for target in targets:
        if target not in Targets.model_fields:
            raise UsageError(f"no target {target!r}", hint=did_you_mean(target, Targets.model_fields))
    data = recipe.model_dump(mode="json")
    data["shapes"].update({key: value for key, value in shapes.items() if value is not None})
    if targets:
        # A target that the recipe does not configure gets its defaults.
        data["targets"] = {target: data["targets"][target] or {} for target in targets}
    try:
        return Recipe.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        option = "--" + str(problem["loc"][-1]).replace("_", "-")
        raise UsageError(
            f"{option} {problem['input']}: {problem['msg']}", hint=f"see `{command_line('export', '--help')}`"
        ) from error
