"""Parity of classifiers and encoders: what the graph gives against our torch (L1) and the original (L3).

At L3 each text is run through the exported graph as an app does, padded on the right, and through the original as
it is: the padding must change nothing. L1 is `text_graph.py`.

Shapes: L labels, C hidden_size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from typing_extensions import override

from helium_edge.parity.reference import load_reference
from helium_edge.parity.report import QUESTIONS
from helium_edge.parity.text_graph import TextGraph
from helium_edge.parity.verdict import GateResult
from helium_edge.progress import SILENT, Progress
from helium_edge.recipe import Gates
from helium_edge.runtime.text_runner import Array, TextRunner, padded
from helium_edge.schemas import plain, significant
from helium_edge.signature import TextSignature, text_signature
from helium_edge.tasks import Task
from helium_edge.texts import Window

if TYPE_CHECKING:
    from helium_edge.checkpoint import Checkpoint

SCHEMA = "helium-edge/head-parity"


@dataclass
class TextFigures:
    """What L3 measured over all texts.

    Attributes:
        texts: How many.
        rows: Rows compared: one a text, or one a token.
        nonfinite: Values of the candidate that are NaN or infinite.
        max_error: max |difference|.
        rms_error: rms(difference) / rms(reference).
        max_logit_error: max |difference| / rms(reference).
        label_agreement: Share of rows whose largest logit is the same; None for hidden states.
        ambiguous: Rows that differ where the reference itself is undecided.
        label_agreement_decided: The same with those rows counted as agreement.
        cosine: Mean cosine similarity of the rows; None for logits.
    """

    texts: int = 0
    rows: int = 0
    nonfinite: int = 0
    max_error: float = 0.0
    rms_error: float = 0.0
    max_logit_error: float = 0.0
    label_agreement: float | None = None
    ambiguous: int = 0
    label_agreement_decided: float | None = None
    cosine: float | None = None


@dataclass(frozen=True)
class TextReport:
    """A finished comparison.

    Attributes:
        task: What the model returns.
        figures: What L3, the comparison with the original, measured.
        gates: Its gates and whether they hold.
        graph: L1, the comparison with our torch classifier of the same weights; None when it was not made.
        caveat: What the comparison did not run; empty when nothing.
    """

    task: Task
    figures: TextFigures
    gates: tuple[GateResult, ...]
    graph: TextGraph | None = None
    caveat: str = ""

    @property
    def failures(self) -> list[str]:
        """Gates that do not hold, a line each, the level in front."""
        levels = (("L1", () if self.graph is None else self.graph.gates), ("L3", self.gates))
        return [f"{name} {gate.failure}" for name, gates in levels for gate in gates if gate.failure is not None]

    @property
    def passed(self) -> bool:
        """Whether every gate holds."""
        return not self.failures

    def to_json(self) -> dict[str, Any]:
        """The whole report as plain data: figures and gates of L3, and those of L1 under its name."""
        graph = None
        if self.graph is not None:
            graph = {
                "question": QUESTIONS["L1"],
                **plain(asdict(replace(self.graph, gates=()))),
                "gates": _gates(self.graph.gates),
            }
        return {
            "schema": SCHEMA,
            "schema_version": "1.1",
            "failures": self.failures,
            "gates": _gates(self.gates),
            "L1": graph,
            **self.summary(digits=6),
        }

    def summary(self, *, digits: int = 3) -> dict[str, Any]:
        """The figures that a bundle's manifest carries; null for NaN or infinite, and for what does not apply."""
        figures = {
            name: significant(value, digits) if isinstance(value, float) else value
            for name, value in vars(self.figures).items()
        }
        levels: dict[str, Any] = {"levels": ["L3"]}
        if self.graph is not None:
            levels = {
                "levels": ["L1", "L3"],
                "graph_median_error": significant(self.graph.median_error, digits),
                "graph_worst_error": significant(self.graph.worst_error, digits),
            }
        caveat = {"caveat": self.caveat} if self.caveat else {}
        return {"level": "L3", "head": self.task.name, "passed": self.passed, **caveat, **levels, **figures}


def _gates(gates: Sequence[GateResult]) -> list[dict[str, Any]]:
    return [
        {"name": gate.name, "measured": significant(gate.measured, 6), "limit": gate.limit,
         "bound": gate.bound, "passed": gate.passed}
        for gate in gates
    ]  # fmt: skip


class ReferenceTextModel(TextRunner):
    """The original model on transformers, in float32, behind the `TextRunner` protocol: texts without padding.

    Args:
        checkpoint: The original.
        tokens: Longest text.

    Raises:
        MissingDependencyError: transformers is not installed.
        CheckpointError: transformers cannot load it, or understands it otherwise than we do.
        ResourceError: Not enough memory for the float32 weights.
    """

    signature: TextSignature

    def __init__(self, checkpoint: Checkpoint, tokens: int) -> None:
        self.signature = text_signature(checkpoint.config, tokens)
        self._model = load_reference(checkpoint)

    @override
    @torch.inference_mode()
    def run(self, ids: Sequence[int]) -> Array:
        """The ids are given as they are, without an attention mask."""
        padded(self.signature, ids)  # refuses what the graphs refuse
        output = self._model(torch.tensor([list(ids)], dtype=torch.int64), use_cache=False)
        rows: Array = output[self.signature.task.output][0].numpy()
        return rows


def text_lengths(windows: Sequence[Window], tokens: int) -> list[tuple[int, ...]]:
    """Texts of a quarter, a half, three quarters and the whole of the graph's tokens, in turn."""
    texts = []
    for index, window in enumerate(windows):
        length = max(1, min(len(window.tokens), tokens) * (1 + index % 4) // 4)
        texts.append(window.tokens[:length])
    return texts


def compare_texts(
    candidate: TextRunner,
    reference: TextRunner,
    texts: Sequence[Sequence[int]],
    gates: Gates,
    progress: Progress = SILENT,
) -> TextReport:
    """L3: run both over all texts and judge the difference.

    Args:
        candidate: The exported graph.
        reference: The original.
        texts: Token ids.
        gates: The limits; `top1` is that of label agreement.
        progress: Advanced by each text.
    """
    found: list[Array] = []
    expected: list[Array] = []
    width = reference.signature.outputs()[0].shape[-1]
    for ids in texts:
        found.append(candidate.run(ids).reshape(-1, int(width)))
        expected.append(reference.run(ids).reshape(-1, int(width)))
        progress.advance()
    figures = _measure(np.concatenate(found), np.concatenate(expected), reference.signature, gates.near_tie)
    figures.texts = len(texts)
    caveat = str(getattr(candidate, "caveat", ""))
    return TextReport(reference.signature.task, figures, _judge(gates, figures), caveat=caveat)


def _measure(found: Array, expected: Array, signature: TextSignature, near_tie: float) -> TextFigures:
    """Figures of (R, L) logits or (R, C) hidden states."""
    difference = found.astype(np.float64) - expected
    rms = math.sqrt(float(np.mean(np.square(expected, dtype=np.float64)))) or 1.0
    largest = float(np.abs(difference).max())
    figures = TextFigures(
        rows=len(found),
        nonfinite=int((~np.isfinite(found)).sum()),
        max_error=largest,
        rms_error=math.sqrt(float(np.mean(difference**2))) / rms,
        max_logit_error=largest / rms,
    )
    measure = _compare_labels if signature.task.has_labels else _compare_directions
    measure(figures, found, expected, near_tie * rms)
    return figures


def _compare_directions(figures: TextFigures, found: Array, expected: Array, near_tie: float) -> None:
    """Of hidden states."""
    del near_tie
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    figures.cosine = float(np.mean((found * expected).sum(axis=1) / np.where(norms > 0, norms, 1.0)))


def _compare_labels(figures: TextFigures, found: Array, expected: Array, near_tie: float) -> None:
    """Of logits; `near_tie` is the distance below which the reference is undecided."""
    best = expected.argmax(axis=1)
    agree = found.argmax(axis=1) == best
    if expected.shape[1] > 1:
        ordered = np.sort(expected, axis=1)
        undecided = ordered[:, -1] - ordered[:, -2] < near_tie
    else:
        undecided = np.zeros(len(expected), bool)
    figures.label_agreement = float(agree.mean())
    figures.ambiguous = int((~agree & undecided).sum())
    figures.label_agreement_decided = float((agree | undecided).mean())


def _judge(gates: Gates, figures: TextFigures) -> tuple[GateResult, ...]:
    results = [
        GateResult("nonfinite", figures.nonfinite, 0, "max"),
        GateResult("max_logit_error", figures.max_logit_error, gates.max_logit_error, "max"),
    ]
    share = figures.label_agreement_decided
    if share is not None:
        error = math.sqrt(share * (1 - share) / figures.rows)
        results.append(GateResult("label_agreement", share, gates.top1, "min", error))
    if figures.cosine is not None:
        results.append(GateResult("hidden_cosine", figures.cosine, gates.hidden_cosine, "min"))
    return tuple(results)
