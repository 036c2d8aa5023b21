"""A checkpoint with fewer key-value heads, and what that costs: what `helium-edge convert` does."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helium_edge.bundle import check_companions
from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.checkpoint.gqa import check_groups, write_grouped
from helium_edge.errors import UsageError
from helium_edge.parity import reference_runner, require_reference
from helium_edge.progress import SILENT, Progress
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.texts import Window, evaluation_windows

WINDOW = 128
"""Tokens of one text."""


@dataclass(frozen=True)
class Conversion:
    """What `convert` made.

    Attributes:
        checkpoint: The new folder.
        kv_heads_before: Key-value heads of the original.
        kv_heads: Those of the new one.
        cache_bytes_per_token_before: Of a float32 cache.
        cache_bytes_per_token: Likewise.
        tokens: Tokens that the perplexities are over; 0 when none was measured.
        ppl_before: Perplexity per token of the original on the built-in text; None when not measured.
        ppl: That of the new one.
    """

    checkpoint: Path
    kv_heads_before: int
    kv_heads: int
    cache_bytes_per_token_before: int
    cache_bytes_per_token: int
    tokens: int
    ppl_before: float | None
    ppl: float | None


def convert(
    source: str,
    kv_heads: int,
    out: Path,
    *,
    revision: str | None = None,
    measure: bool = True,
    progress: Progress = SILENT,
) -> Conversion:
    """Pool the key-value heads of a checkpoint, and measure the perplexity before and after.

    Args:
        source: Folder, Hub id or `helium-tiny`.
        kv_heads: Key-value heads of the new checkpoint.
        out: Its folder; it appears complete or not at all.
        revision: Of a Hub id.
        measure: Measure perplexities; needs the extra `reference`. Of language models only.
        progress: Receives stages.

    Raises:
        UsageError: The number of heads does not fit, or `out` is taken.
        InputError: The checkpoint is unusable.
        MissingDependencyError: The extra `reference` is needed and missing.
        ResourceError: Out of disk space or memory.
    """
    if measure:
        require_reference()
    progress.stage("read checkpoint")
    checkpoint = open_checkpoint(source, revision=revision)
    if measure and not checkpoint.config.task.has_cache:
        raise UsageError(
            f"{checkpoint.source}: {checkpoint.config.architecture} has no perplexity", hint="add --no-measure"
        )
    check_groups(checkpoint, kv_heads)
    windows = _windows(checkpoint) if measure else []
    progress.stage("pool heads", len(checkpoint.tensors), "tensors")
    write_grouped(checkpoint, kv_heads, out, progress)
    before = _perplexity(checkpoint, windows, progress, "before") if measure else None
    after = _perplexity(open_checkpoint(str(out)), windows, progress, "after") if measure else None
    width = 2 * 4 * checkpoint.config.num_hidden_layers * checkpoint.config.head_dim
    return Conversion(
        checkpoint=out,
        kv_heads_before=checkpoint.config.num_key_value_heads,
        kv_heads=kv_heads,
        cache_bytes_per_token_before=width * checkpoint.config.num_key_value_heads,
        cache_bytes_per_token=width * kv_heads,
        tokens=sum(len(window.tokens) - 1 for window in windows),
        ppl_before=before,
        ppl=after,
    )


def _windows(checkpoint: Checkpoint) -> list[Window]:
    path, *_ = checkpoint.tokenizer_files()
    tokenizer = Tokenizer(path, check_companions(checkpoint).tokenizer.content)
    length = min(WINDOW, checkpoint.config.max_position_embeddings)
    return evaluation_windows(tokenizer, window_len=length, max_windows_per_language=2)


def _perplexity(checkpoint: Checkpoint, windows: list[Window], progress: Progress, when: str) -> float:
    """Exp of the mean negative log-likelihood of each token after the first of its window."""
    progress.stage(f"perplexity {when}", sum(len(window.tokens) - 1 for window in windows), "tokens")
    runner = reference_runner(checkpoint, WINDOW)
    total, tokens = 0.0, 0
    for window in windows:
        runner.reset()
        logits = runner.prefill(window.tokens)[:-1].astype(np.float64)
        targets = np.array(window.tokens[1:])
        shifted = logits - logits.max(axis=1, keepdims=True)
        chosen = shifted[np.arange(len(targets)), targets]
        total += float((np.log(np.exp(shifted).sum(axis=1)) - chosen).sum())
        tokens += len(targets)
        progress.advance(len(targets))
    return math.exp(min(total / tokens, 700.0))
