"""`helium-edge recipes`: list, show and check recipes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from helium_edge.errors import UsageError

from . import _console
from ._format import figure, size
from ._imports import heavy_imports
from ._options import JsonOption, RevisionOption

if TYPE_CHECKING:
    from helium_edge.mixed_precision import FittedRecipe
    from helium_edge.recipe import Recipe

EPILOG = """\b
Examples:
  helium-edge recipes
  helium-edge recipes show onnx-int4 > mine.yaml
  helium-edge recipes check mine.yaml
  helium-edge recipes fit helium-tiny --bytes 4.8M > mine.yaml
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
    drops = limits.pop("task_drop", {})
    limits |= {f"task_drop.{name}": value for name, value in drops.items()}
    return [
        ("name", recipe.name),
        ("targets", ", ".join(recipe.targets.names())),
        ("shapes", f"prefill {recipe.shapes.prefill_len}, cache {recipe.shapes.cache_len}"),
        ("method", recipe.quantization.method),
        *rules,
        ("gates", ", ".join(f"{name} {value:g}" for name, value in limits.items()) or "none"),
    ]


_FACTORS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}
_BYTES = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*([KMG]I?)?B?", re.IGNORECASE)


def parse_bytes(text: str) -> int:
    """A number of bytes: `1200000000`, `1.2G`, `800MB`, `1.1GiB`.

    Raises:
        UsageError: It is none.
    """
    match = _BYTES.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--bytes {text}: not a number of bytes", hint="write it as 1200000000, 1.2G or 1.1GiB")
    return int(float(match[1]) * _FACTORS[(match[2] or "").upper()])


@commands.command(
    "fit",
    epilog="\b\nExamples:\n  helium-edge recipes fit helium-tiny --bytes 4.8M > mine.yaml"
    "\n  helium-edge recipes fit DIR --bytes 1.2G --base xnnpack-int4 > mine.yaml",
)
def fit(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A folder, a Hub id, or helium-tiny.", show_default=False)
    ],
    nbytes: Annotated[
        str,
        typer.Option(
            "--bytes", metavar="SIZE", help="Most bytes of graphs and weights: 1.2G.", show_default=False
        ),
    ],
    base: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="Keep its target, shapes and cache, and replace its rules."),
    ] = "onnx-int4",
    revision: RevisionOption = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text to calibrate and to measure on, not the built-in one: UTF-8, or .jsonl.",
            show_default=False,
        ),
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Export by the result, and compare with the original.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a recipe that loses least within a budget of bytes: more bits where they tell.

    What each matrix costs under each scheme is measured on text. The recipe goes to stdout, what is predicted of
    it to stderr.
    """
    allowed = parse_bytes(nbytes)
    with heavy_imports():
        from helium_edge.mixed_precision import FitRequest, fit_recipe
        from helium_edge.recipe import load_recipe

    request = FitRequest(checkpoint, load_recipe(base), allowed, revision, calibration, measure)
    with _console.progress() as progress:
        found = fit_recipe(request, progress)
    if as_json:
        _console.document(_fitted_document(found))
    else:
        _console.raw(found.text())
        _show_fitted(found)
    _console.next_step("export", checkpoint, "--recipe", "mine.yaml", "-o", "DIR")


def _show_fitted(found: FittedRecipe) -> None:
    rows = [
        (found.recipe.name, size(found.nbytes), figure(found.loss)),
        ("base", size(found.base_nbytes), figure(found.base_loss)),
    ]
    _console.table(
        ["predicted", "graphs and weights", "mean KLD"],
        rows,
        right=["graphs and weights", "mean KLD"],
        stderr=True,
    )
    if found.measured_nbytes is not None:
        _console.line(
            f"measured: mean KLD {figure(found.measured_loss)} on the evaluation text, "
            f"{size(found.measured_nbytes)} with tokenizer and manifest",
            stderr=True,
        )


def _fitted_document(found: FittedRecipe) -> dict[str, Any]:
    return {
        "recipe": found.recipe.model_dump(mode="json"),
        "predicted": {"bytes": found.nbytes, "mean_kld": found.loss},
        "base": {"bytes": found.base_nbytes, "mean_kld": found.base_loss},
        "measured": None
        if found.measured_nbytes is None
        else {"bundle_bytes": found.measured_nbytes, "mean_kld": found.measured_loss},
        "groups": [
            {"weights": list(group.names), "scheme": str(scheme or "float32"), "mean_kld": loss}
            for group, scheme, loss in found.chosen
        ],
    }
