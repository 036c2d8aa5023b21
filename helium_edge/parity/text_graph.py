"""Level L1 of classifiers and encoders: the exported graph against our torch classifier.

Both carry the same dequantized weights and round activations alike, so that a difference is a bug of the graph, or
an activation that float32 noise rounds to the other side (`emulation.py`). No cache tells in which token
that happened, and what follows in the text changes with it. Hence two groups of texts: short ones of two tokens,
most of which no such activation touches, so that their median is held to float32 noise; and whole ones, of which
none may be further off than roundings take it.

Shapes: L labels, C hidden_size.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from helium_edge.model.text_model import TextModel
from helium_edge.parity.emulation import EmulatedParts, Ledger
from helium_edge.parity.verdict import NOISE, GateResult, GraphLimits, graph_limits
from helium_edge.parity.yardstick import has_few_ties
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import WeightStore
from helium_edge.quant.activations import Arithmetic
from helium_edge.runtime.text_runner import Array, TextRunner
from helium_edge.runtime.torch_text import TorchTextRunner

SHORT_TEXTS = 24
"""Of two tokens each."""


@dataclass(frozen=True)
class TextGraph:
    """What L1 found. Errors are rms(difference) of a row over the rms of all rows that were expected.

    Attributes:
        arithmetic: How activations were rounded, for reports.
        texts: How many, short ones included.
        rows: Rows compared: one a text, or one a token.
        nonfinite: Values of the candidate that are NaN or infinite.
        median_error: Of the last rows of the short texts.
        worst_error: Of every row.
        gates: The gates and whether they hold.
    """

    arithmetic: str
    texts: int
    rows: int
    nonfinite: int
    median_error: float
    worst_error: float
    gates: tuple[GateResult, ...]


def short_texts(texts: Sequence[Sequence[int]], tokens: int) -> list[tuple[int, ...]]:
    """`SHORT_TEXTS` texts of two tokens, or of the one that the graph takes, out of the middle of others.

    Not from the start: where all begin alike, one rounding of that token would be in all of them.
    """
    whole = [ids[1:] or ids for ids in texts]
    found = []
    for number in range(SHORT_TEXTS):
        ids = whole[number % len(whole)]
        start = 2 * (number // len(whole)) % max(1, len(ids) - 1)
        found.append(tuple(ids[start : start + min(2, tokens)]))
    return found


def yardstick(store: WeightStore, arithmetic: Arithmetic, tokens: int) -> TorchTextRunner:
    """Our torch classifier with the weights that were exported, 4 bytes a parameter, for texts of `tokens`."""
    return TorchTextRunner(TextModel(store.config, store, EmulatedParts(store, arithmetic, Ledger())), tokens)


def compare_graph(
    candidate: TextRunner,
    store: WeightStore,
    arithmetic: Arithmetic,
    texts: Sequence[Sequence[int]],
    progress: Progress = SILENT,
) -> TextGraph:
    """Run the graph and the yardstick over texts, and over short ones made of them, and judge the difference.

    Args:
        candidate: The exported graph.
        store: The weights that were exported.
        arithmetic: How the kernels treat activations.
        texts: Token ids.
        progress: Advanced by each text, `SHORT_TEXTS` more than there are texts.
    """
    expected = yardstick(store, arithmetic, candidate.signature.tokens)
    short = short_texts(texts, candidate.signature.tokens)
    pairs = []
    for ids in (*short, *texts):
        pairs.append((_rows(candidate, ids), _rows(expected, ids)))
        progress.advance()
    rms = math.sqrt(float(np.mean(np.square(np.concatenate([want for _, want in pairs]))))) or 1.0
    errors = [_errors(found, want, rms) for found, want in pairs]
    last = np.array([of_text[-1] for of_text in errors[: len(short)]])
    every = np.concatenate(errors)
    nonfinite = sum(int((~np.isfinite(found)).sum()) for found, _ in pairs)
    median, worst = float(np.median(last)), float(every.max())
    limits = text_limits(arithmetic, store)
    gates = (
        GateResult("nonfinite", nonfinite, 0, "max"),
        GateResult("median_error", median, limits.median, "max"),
        GateResult("worst_error", worst, limits.worst, "max"),
    )
    return TextGraph(arithmetic.name, len(pairs), len(every), nonfinite, median, worst, gates)


def text_limits(arithmetic: Arithmetic, store: WeightStore) -> GraphLimits:
    """As for decoders, but the worst row may have met several roundings, since no cache keeps them out."""
    layers = store.config.num_hidden_layers
    limits = graph_limits(arithmetic, layers, traced=False)
    if arithmetic.rounds and arithmetic.exact and has_few_ties(store.config):
        return dataclasses.replace(limits, median=NOISE)
    return limits


def _rows(runner: TextRunner, ids: Sequence[int]) -> Array:
    """(R, L) logits or (R, C) hidden states."""
    width = int(runner.signature.outputs()[0].shape[-1])
    return np.asarray(runner.run(ids).reshape(-1, width))


def _errors(found: Array, expected: Array, rms: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(R,) errors; infinite where something is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        errors = np.sqrt(np.square(found.astype(np.float64) - expected).mean(axis=1)) / rms
    return np.where(np.isfinite(errors), errors, np.inf)
