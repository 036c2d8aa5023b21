"""`helium-edge recipes`: list, show and check recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import _console
from ._options import JsonOption

if TYPE_CHECKING:
    from helium_edge.recipe import Recipe

EPILOG = """\b
Examples:
  helium-edge recipes
  helium-edge recipes show onnx-int4 > mine.yaml
  helium-edge recipes check mine.yaml
"""

commands = typer.Typer(
    name="recipes",
    short_help="List, show and check recipes.",
    help="List the recipes that ship with helium-edge; show one, or check a file.",
    epilog=EPILOG,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(commands)


@commands.callback(invoke_without_command=True)
def list_recipes(context: typer.Context, as_json: JsonOption = False) -> None:
    """List the recipes that ship with helium-edge; show one, or check a file."""
    if context.invoked_subcommand is not None:
        return
    from helium_edge.recipe import load_recipe, recipe_names

    found = [load_recipe(name) for name in recipe_names()]
    if as_json:
        _console.document(
            {
                "recipes": [
                    {"name": recipe.name, "targets": recipe.targets.names(), "description": recipe.description}
                    for recipe in found
                ]
            }
        )
    else:
        rows = [(recipe.name, ", ".join(recipe.targets.names()), recipe.description) for recipe in found]
        _console.table(["recipe", "targets", "description"], rows)
    _console.next_step("recipes", "show", found[0].name)


@commands.command("show", epilog="\b\nExample:\n  helium-edge recipes show onnx-int4 > mine.yaml")
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A shipped recipe.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Print a shipped recipe, as a start for one of your own."""
    from helium_edge.recipe import parse_recipe, recipe_text

    text = recipe_text(name)
    if as_json:
        _console.document({"recipe": parse_recipe(text, where=name).model_dump(mode="json")})
    else:
        _console.raw(text)
    _console.next_step("export", "helium-tiny", "--recipe", name, "-o", "DIR")


@commands.command("check", epilog="\b\nExample:\n  helium-edge recipes check mine.yaml")
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recipe file.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Check a recipe file: keys, values and patterns. Whether it fits a model, `export --dry-run` tells."""
    from helium_edge.recipe import load_recipe

    recipe = load_recipe(file)
    if as_json:
        _console.document({"valid": True, "recipe": recipe.model_dump(mode="json")})
    else:
        _console.line(f"{file}: a valid recipe")
        _console.fields(_facts(recipe))
    _console.next_step("export", "CHECKPOINT", "--recipe", file, "--dry-run")


def _facts(recipe: Recipe) -> list[tuple[str, object]]:
    rules = [(f"rule {number}", f"{rule.scheme or 'float32'}  {rule.match}") for number, rule in enumerate(
        recipe.quantization.rules, 1
    )]  # fmt: skip
    limits = recipe.gates.model_dump(exclude_none=True)
    return [
        ("name", recipe.name),
        ("targets", ", ".join(recipe.targets.names())),
        ("shapes", f"prefill {recipe.shapes.prefill_len}, cache {recipe.shapes.cache_len}"),
        ("method", recipe.quantization.method),
        *rules,
        ("gates", ", ".join(f"{name} {value:g}" for name, value in limits.items()) or "none"),
    ]
