"""From what a user asks for to cells: the checkpoint opened, recipes read and fitted, one target each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import helium_edge
from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.errors import UsageError
from helium_edge.evaluate.plan import plan
from helium_edge.evaluate.subjects import isa
from helium_edge.exporting.fit import fit
from helium_edge.recipe import Recipe, load_recipe
from helium_edge.sweep.cells import WORKER_BYTES, Cell


@dataclass(frozen=True)
class Sweep:
    """What is asked for.

    Attributes:
        checkpoint: The original.
        source: Where it is, as it was given.
        recipes: What to export, each of one target.
        tasks: As of `eval --tasks`.
        data: Folder of questions; None where tasks need none.
        limit: Most questions of a task; 0 is all.
        threads: Threads within an operator, and processors of a cell.
        parity: Compare logits as well.
        speed: Time each bundle, alone on its machine.
    """

    checkpoint: Checkpoint
    source: str
    recipes: tuple[Recipe, ...]
    tasks: tuple[str, ...]
    data: Path | None
    limit: int
    threads: int = 1
    parity: bool = True
    speed: bool = True

    def cells(self) -> list[Cell]:
        """All cells, those that others need first.

        Raises:
            UsageError: Two recipes of one name, or no such task.
            InputError: Data is missing or malformed.
        """
        names = [recipe.name for recipe in self.recipes]
        double = next((name for name in names if names.count(name) > 1), None)
        if double is not None:
            raise UsageError(f"two recipes are named {double}", hint="give each a `name` of its own")
        weights = self.checkpoint.config.num_parameters
        found: list[Cell] = []
        for recipe in self.recipes:
            export = Cell(
                "export", f"export {recipe.name}", self._recipe(recipe), self._place, (), _memory(weights, 6)
            )
            found.append(export)
        for task in plan(self.tasks, self.data, self.limit):
            asked = {"task": task.about, "limit": self.limit, "form": task.asked.form}
            name = f"{task.asked.task.name} {task.asked.form}"
            place = {**self._place, "word": f"{task.asked.task.name}:{task.asked.form}"}
            # The original reads what the first bundle's tokenizer makes of a text; all bundles have the same.
            first = self.recipes[0]
            spec = {**self._recipe(first), **asked}
            found.append(Cell("original", f"original {name}", spec, place, (found[0].key,), _memory(weights, 5)))
            for index, recipe in enumerate(self.recipes):
                spec = {**self._recipe(recipe), **asked}
                cell = Cell(
                    "artifact", f"{recipe.name} {name}", spec, place, (found[index].key,), _memory(weights, 2)
                )
                found.append(cell)
        for index, recipe in enumerate(self.recipes):
            if self.parity:
                found.append(
                    Cell("parity", f"{recipe.name} parity", self._recipe(recipe), self._place, (found[index].key,),
                         _memory(weights, 10))
                )  # fmt: skip
            if self.speed:
                found.append(
                    Cell("speed", f"{recipe.name} speed", self._recipe(recipe), self._place, (found[index].key,),
                         _memory(weights, 2), alone=True)
                )  # fmt: skip
        return found

    def _recipe(self, recipe: Recipe) -> dict[str, Any]:
        return {
            "version": helium_edge.__version__,
            "checkpoint": self.checkpoint.hashes(),
            "recipe": recipe.canonical_json(),
            "isa": isa(),
        }

    @property
    def _place(self) -> dict[str, Any]:
        data = None if self.data is None else str(self.data.absolute())
        return {"source": self.source, "data": data, "limit": self.limit, "threads": self.threads}


def _memory(parameters: int, bytes_each: int) -> int:
    return WORKER_BYTES + parameters * bytes_each


def prepare(  # noqa: PLR0913 - keywords with defaults
    source: str,
    recipes: Sequence[str],
    tasks: Sequence[str],
    *,
    data: Path | None,
    limit: int,
    cache_len: int | None = None,
    threads: int = 1,
    parity: bool = True,
    speed: bool = True,
) -> Sweep:
    """Read what a sweep is of, and refuse what cannot be exported, before anything is done.

    Args:
        source: The checkpoint: folder, Hub id or `helium-tiny`.
        recipes: Names or files.
        tasks: As of `eval --tasks`.
        data: Folder of questions.
        limit: Most questions of a task; 0 is all.
        cache_len: Slots of the cache, in place of the recipes'.
        threads: Processors of a cell.
        parity: Compare logits as well.
        speed: Measure speed as well.

    Raises:
        UsageError: No recipe, one of several targets, or one that does not fit.
        InputError: The checkpoint is unusable.
    """
    if not recipes:
        raise UsageError("no recipe was named", hint="--recipes onnx-int4,onnx-int8, for example")
    checkpoint = open_checkpoint(source)
    fitted = []
    for word in recipes:
        recipe = load_recipe(word)
        names = recipe.targets.names()
        if len(names) != 1:
            raise UsageError(
                f"recipe {recipe.name} has the targets {', '.join(names)}", hint="one recipe for each"
            )
        try:
            recipe = recipe.override(cache_len=cache_len)
        except ValidationError as error:
            raise UsageError(f"--cache-len {cache_len}: {error.errors(include_url=False)[0]['msg']}") from error
        fitted.append(fit(checkpoint.config, recipe)[0])
    found = Sweep(checkpoint, source, tuple(fitted), tuple(tasks), data, limit)
    return dataclasses.replace(found, threads=threads, parity=parity, speed=speed)
