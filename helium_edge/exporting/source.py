"""What an export reads: a checkpoint and the files beside its weights, checked before any work is done."""

from __future__ import annotations

from dataclasses import dataclass

from helium_edge.bundle import Companions, check_companions
from helium_edge.checkpoint import Checkpoint, ReadOptions, open_checkpoint
from helium_edge.errors import CheckpointError


@dataclass(frozen=True)
class ExportSource:
    """A checkpoint that can be exported.

    Attributes:
        checkpoint: Its weights and config.
        companions: Its tokenizer and the rest.
    """

    checkpoint: Checkpoint
    companions: Companions

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was ignored, replaced or guessed, a line each."""
        return (*self.checkpoint.warnings, *self.companions.warnings)


def open_source(
    source: str, *, revision: str | None, strict: bool = False, reading: ReadOptions | None = None
) -> ExportSource:
    """Open a checkpoint for an export.

    Args:
        source: Folder, Hub id or `helium-tiny`.
        revision: Of a Hub id.
        strict: Refuse one of which anything is ignored, replaced or guessed.
        reading: How to read it.

    Raises:
        InputError: It is unusable, or not as it stands where `strict` is set.
    """
    checkpoint = open_checkpoint(source, revision=revision, options=reading or ReadOptions())
    opened = ExportSource(checkpoint, check_companions(checkpoint))
    if strict and opened.warnings:
        more = len(opened.warnings) - 1
        raise CheckpointError(
            f"{opened.warnings[0]}{f' (and {more} more warnings)' if more else ''}",
            hint="this is refused because of --strict; without it, it is a warning",
        )
    return opened
