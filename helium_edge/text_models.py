"""`Classifier` and `Encoder`: loaded bundles that take a whole text at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import final

import numpy as np

from helium_edge.bundle import Bundle
from helium_edge.errors import UsageError
from helium_edge.loaded_model import Model, Text
from helium_edge.runtime.runner import Logits
from helium_edge.runtime.text_runner import TextRunner, scores


@dataclass(frozen=True)
class Label:
    """A label with its score.

    Attributes:
        label: Its name.
        score: As the model's kind has it: a share of 1, a probability of its own, or the value of a regression.
        logit: What the graph returned.
    """

    label: str
    score: float
    logit: float


@dataclass(frozen=True)
class LabelledToken:
    """A token of a text with its labels, best first."""

    id: int
    text: str
    labels: tuple[Label, ...] = field(default=())


class _TextModel(Model):
    """A model that takes a whole text at once."""

    def __init__(self, bundle: Bundle, runner: TextRunner) -> None:
        super().__init__(bundle)
        self._runner: TextRunner | None = runner

    @property
    def runner(self) -> TextRunner:
        """The graph.

        Raises:
            UsageError: The model is closed.
        """
        if self._runner is None:
            raise self.closed_error()
        return self._runner

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text that it takes."""
        return self.manifest.prefill_len

    def close(self) -> None:
        """Give the memory of the graph back; the model cannot run any more."""
        self._runner = None


@final
class Classifier(_TextModel):
    """A model that labels texts, or each token of a text."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.manifest.labels

    @property
    def labels_tokens(self) -> bool:
        """Whether each token has labels; otherwise the text has."""
        return not self.manifest.task.pools

    def classify(self, text: Text) -> tuple[Label, ...]:
        """All labels of a text, best first.

        Raises:
            UsageError: The model labels tokens, or the text is empty or too long.
        """
        if self.labels_tokens:
            raise UsageError(f"{self.manifest.name} labels tokens, not texts", hint="use classify_tokens")
        return self._ranked(self.runner.run(self.ids(text)))

    def classify_tokens(self, text: Text) -> tuple[LabelledToken, ...]:
        """Each token of a text with all labels, best first.

        Raises:
            UsageError: The model labels texts, or the text is empty or too long.
        """
        if not self.labels_tokens:
            raise UsageError(f"{self.manifest.name} labels texts, not tokens", hint="use classify")
        ids = self.ids(text)
        rows = self.runner.run(ids)
        return tuple(
            LabelledToken(token, self.tokenizer.decode([token]), self._ranked(row))
            for token, row in zip(ids, rows, strict=True)
        )

    def _ranked(self, logits: Logits) -> tuple[Label, ...]:
        problem = self.manifest.output.problem_type if self.manifest.output is not None else None
        found = scores(logits, problem)
        order = np.argsort(-logits, kind="stable")
        return tuple(Label(self.labels[at], float(found[at]), float(logits[at])) for at in order)


@final
class Encoder(_TextModel):
    """A model that returns a vector for each token."""

    def hidden_states(self, text: Text) -> Logits:
        """Hidden states of the last layer, (T, C) float32.

        Raises:
            UsageError: The text is empty or too long.
        """
        return self.runner.run(self.ids(text))
