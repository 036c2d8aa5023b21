"""Exports of random checkpoints, and the whole of `helium-edge parity` on them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helium_edge.bundle import Bundle
from helium_edge.generation import LanguageModel, language_model
from helium_edge.parity import ParityReport
from helium_edge.parity import check as parity_check
from helium_edge.parity.layer_table import LayerTable
from helium_edge.parity.localise import localise
from helium_edge.recipe import Recipe
from helium_edge.texts import TextSource
from tests.faults.catalogue import Fault
from tests.helpers.bundles import MODEL, Exported, bundle_recipe, export_bundle
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens
from tests.helpers.faults import plant
from tests.helpers.faults_host import HOST_FAULTS

VOCAB = 320
SHAPES = {"prefill_len": 12, "cache_len": 48}
"""A chunk of 12 leaves a window of 48 tokens a tail of 3: one of a single token hides a wrong `last_index`."""


@dataclass(frozen=True)
class Subject:
    """A bundle, its store, and the checkpoint that it came from."""

    export: Exported
    checkpoint: Path

    @property
    def folder(self) -> Path:
        return self.export.folder


def random_recipe(name: str, **changes: Any) -> Recipe:
    """A shipped recipe at small shapes, without its gates for quality, which are for trained weights.

    The limits of L1, of the cache checks and of the consistency of L3 are no part of a recipe: they stay.
    """
    recipe = bundle_recipe(name, **changes)
    gates = recipe.gates.model_copy(update=dict.fromkeys(("mean_kld", "top1", "ppl_ratio", "max_logit_error")))
    shapes = recipe.shapes.model_copy(update=SHAPES)
    return recipe.model_copy(update={"gates": gates, "shapes": shapes})


def make_subject(folder: Path, recipe: Recipe, **model: Any) -> Subject:
    """Export a random checkpoint into a new folder."""
    model = MODEL | {"num_hidden_layers": 2, "vocab_size": VOCAB} | model
    checkpoint = make_checkpoint(folder / "checkpoint", **model)
    return Subject(export_bundle(checkpoint, recipe, folder / "bundle"), checkpoint)


def run_check(bundle: Path, checkpoint: Path, *, static: bool = False) -> ParityReport:
    """All levels and the cache contract, on a window of each language."""
    text = TextSource(tokens=6 * SHAPES["cache_len"])
    return parity_check.check(
        bundle, checkpoint=str(checkpoint), text=text, threads=1, static=static, unverified=True
    )


def colours(report: ParityReport) -> dict[str, str]:
    """Red or green, by level and for the cache checks together."""
    found = {level.level: "green" if level.passed else "red" for level in report.levels}
    return found | {"cache": "green" if all(check.passed for check in report.checks) else "red"}


def assert_caught(fault: Fault, subject: Subject, folder: Path) -> None:
    """Plant a fault of the catalogue, and see it in the levels and at the place that it says.

    Args:
        fault: The fault.
        subject: The clean bundle; for a fault of the exporter, the one that was exported with it.
        folder: Where the copy goes.
    """
    with pytest.MonkeyPatch.context() as patch:
        if fault.plant in HOST_FAULTS:
            patch.setattr(parity_check, "language_model", _faulty_opener(fault.plant))
            bundle = subject.folder
        elif fault.exported:
            bundle = subject.folder
        else:
            bundle = plant(subject.folder, fault.plant, folder / "planted", layer=fault.layer)
        report = run_check(bundle, subject.checkpoint, static=fault.static)
    assert not report.passed
    found = colours(report)
    expected = {level: found[level] if colour == "any" else colour for level, colour in fault.expected.items()}
    assert found == expected, "\n".join(report.failures)
    assert set(fault.checks) <= {check.name for check in report.checks if not check.passed}
    if found["L1"] == "red" and fault.place is not None:
        assert report.layers is not None  # localised without being asked
    if fault.place is not None:
        table = report.layers
        if table is None:  # the other levels found it, and nobody asked for the place
            planted = Exported(bundle, subject.export.store)
            table = localise(planted.open(), planted.store, random_tokens(30, VOCAB), static=fault.static)
        assert isinstance(table, LayerTable)
        assert table.guilty == fault.place


def _faulty_opener(fault: str) -> Any:
    """`language_model`, with a fault of the host around what runs its graphs."""

    def opened(bundle: Bundle, *, threads: int = 0, static: bool = False) -> LanguageModel:
        runner: Any = language_model(bundle, threads=threads, static=static).runner
        return LanguageModel(bundle, HOST_FAULTS[fault](runner, bundle.manifest.prefill_len))

    return opened
