"""A bundle against the checkpoint that it came from: what `helium-edge parity` does, and `export` in short."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Protocol

from helium_edge.bundle import Manifest, open_bundle, open_runner
from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.errors import CheckpointError
from helium_edge.parity import (
    LANGUAGES,
    ParityReport,
    Window,
    evaluation_windows,
    reference_runner,
    require_reference,
    run_parity,
)
from helium_edge.recipe import Gates
from helium_edge.runtime.runner import Runner
from helium_edge.runtime.tokenizer import Tokenizer

FULL_WINDOW = 256
"""Tokens of one conversation."""


class Progress(Protocol):
    """What a caller is told while it waits."""

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        """A stage begins; `total` is the number of steps, if known."""
        ...

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Steps of the stage are done."""
        ...


class Silent:
    """Tells nobody."""

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        """See `Progress.stage`."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """See `Progress.advance`."""


def check(
    bundle_path: Path,
    *,
    checkpoint: str | None = None,
    tokens: int = 0,
    threads: int = 0,
    static: bool = False,
    unverified: bool = False,
    progress: Progress | None = None,
) -> ParityReport:
    """Compare a bundle with the checkpoint that it was exported from, on the built-in text.

    Args:
        bundle_path: The bundle.
        checkpoint: Where its checkpoint is; by default where the manifest says it came from.
        tokens: About how many tokens to run over all languages; 0 runs all of the text.
        threads: Threads within an operator; 0 lets the runtime choose.
        static: Run the static prefill and decode graphs instead of the one that serves both.
        unverified: Run a bundle whose checksums do not match.
        progress: Told about stages.

    Returns:
        The report, judged by the gates of the bundle's recipe; missing a gate is no exception here.

    Raises:
        InputError: Bundle or checkpoint are unusable, or do not belong together.
        MissingDependencyError: The extra `reference` is missing.
    """
    tell = progress or Silent()
    require_reference()
    tell.stage("read bundle")
    bundle = open_bundle(bundle_path, unverified=unverified)
    original = _original(bundle.manifest, checkpoint)
    runner = open_runner(bundle, threads=threads, static=static)
    tokenizer = Tokenizer(bundle.folder / bundle.manifest.tokenizer.file)
    length = min(FULL_WINDOW, runner.cache_len)
    per_language = math.ceil(tokens / (length * len(LANGUAGES))) if tokens else None
    windows = text_windows(tokenizer, length, runner.cache_len, per_language=per_language)
    gates = Gates.model_validate(bundle.manifest.quantization.recipe["gates"])
    return compare(runner, original, windows, gates, bundle.manifest.prefill_len, tell)


def text_windows(tokenizer: Tokenizer, length: int, cache_len: int, *, per_language: int | None) -> list[Window]:
    """Windows of the built-in text that fit a cache; None takes all of the text."""
    return evaluation_windows(tokenizer, window_len=min(length, cache_len), max_windows_per_language=per_language)


def compare(
    runner: Runner, original: Checkpoint, windows: list[Window], gates: Gates, chunk: int, tell: Progress
) -> ParityReport:
    """Run an opened candidate against its original, told about as two stages.

    Args:
        runner: The candidate.
        original: The checkpoint.
        windows: The text.
        gates: The limits.
        chunk: Tokens of one prefill chunk.
        tell: Told about the stages.
    """
    tell.stage("load original")
    reference = reference_runner(original, runner.cache_len)
    done = 0

    def advance(tokens: int, _: int) -> None:
        nonlocal done
        tell.advance(tokens - done)
        done = tokens

    tell.stage("compare with original", sum(len(window.tokens) - 1 for window in windows), "tokens")
    return run_parity(runner, reference, windows, gates=gates, prefill_tokens=chunk, on_progress=advance)


def _original(manifest: Manifest, given: str | None) -> Checkpoint:
    """The checkpoint of a bundle, checked by its hashes."""
    source = manifest.source
    try:
        checkpoint = open_checkpoint(given or source.checkpoint, revision=None if given else source.revision)
    except CheckpointError as error:
        if given is not None:
            raise
        raise CheckpointError(
            f"the original of this bundle, {source.checkpoint}, is not at hand: {error.message}",
            hint="name its folder with --checkpoint",
        ) from error
    hashes = checkpoint.hashes()
    wrong = [name for name, value in source.files.items() if hashes.get(name) != value]
    if wrong:
        raise CheckpointError(
            f"{checkpoint.source}: {wrong[0]} is not the file that the bundle was exported from",
            hint="name the right checkpoint with --checkpoint",
        )
    return checkpoint
