"""What an export is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from helium_edge.checkpoint import ReadOptions
from helium_edge.recipe import Recipe


@dataclass(frozen=True)
class ExportRequest:
    """A checkpoint, a recipe, and what to do with them.

    Attributes:
        source: Folder, Hub id or `helium-tiny`.
        recipe: What to export.
        out: The bundle's folder, which appears complete or not at all; of a recipe with several targets the folder
            of their bundles, `out/<target>`.
        revision: Of a Hub id.
        force: Replace existing bundles.
        parity: Compare with the original before publishing; needs the extra `reference`.
        run: Run what was built, which `parity` needs, and keep a golden trace; this holds all weights, not one.
        store: Folder that keeps what was found for the weights; by default it lies beside `out`
            while the export runs, and an interrupted one takes them up again.
        calibration: Text to calibrate weights, or an int8 KV cache, on; None is the built-in one.
        threads: Threads within an operator while checking; 0 lets the runtime choose.
        strict: Refuse a checkpoint of which anything is ignored, replaced or guessed.
        reading: How to read the checkpoint: an adapter to merge, another generation_config.json.
    """

    source: str
    recipe: Recipe
    out: Path
    revision: str | None = None
    force: bool = False
    parity: bool = True
    run: bool = True
    store: Path | None = None
    calibration: Path | None = None
    threads: int = 0
    strict: bool = False
    reading: ReadOptions = field(default_factory=ReadOptions)

    @property
    def compares(self) -> bool:
        """Whether the result is compared with the original."""
        return self.parity and self.run
