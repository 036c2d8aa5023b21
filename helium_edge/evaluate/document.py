"""The JSON document of an evaluation: the models that describe it.

`evaluate` makes it; docs/evaluation.md explains it, and `evaluate.schema` makes its JSON Schema. Figures are in
percent, differences in points: artifact less original.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field

from helium_edge.parity.document import Subject
from helium_edge.schemas import Count, Figure, Items, Part, Positive

SCHEMA: Final = "helium-edge/evaluation"
SCHEMA_VERSION = "1.0"

Outcome = Literal["holds", "worse", "undecided"]


class TaskRow(Part):
    """One task in one form, by one metric."""

    task: str
    title: str
    language: str
    form: Literal["letters", "cloze", "blank", "generate", "official"]
    """Choices by letter, choices as continuations, the choice in the blank of a sentence, the model writes, or as
    lm-eval's task of that name asks."""
    shots: Count
    """Examples before each question."""
    metric: str
    """`accuracy`, `accuracy_per_character`, `exact_match`, `bleu`, `chrf`; or as lm-eval's task calls it."""
    n: Count
    """Questions that were asked, and answered by both models."""
    questions: Count
    """Questions of the data set."""
    data_sha256: str
    original: Figure | None
    """Percent; null where the original was left out."""
    artifact: Figure
    """Percent."""
    difference: Figure | None
    """Points, artifact less original."""
    se: Figure | None
    """Standard error of the difference, paired by question."""
    interval: Items[Figure] | None
    """Of the difference, 95 %."""
    lost: Count | None
    """Right answers of the original that the artifact has wrong; null of corpora."""
    gained: Count | None
    """The other way round."""
    changed: Count | None
    """Answers that differ, right or wrong."""
    mcnemar_p: Figure | None
    """Exact two-sided p value of lost against gained."""
    margin_change: Figure | None
    """Mean change of log p(right) less log p(best wrong), nats; null where the model writes."""
    margin_change_se: Figure | None
    """Its standard error."""
    published: Figure | None
    """Of the model card, percent; its protocol is unknown, and nothing is judged by it."""
    verdict: Outcome | None
    """By the gate of single tasks; null without one."""
    too_few: bool | None
    """The error is more than half of that gate: too few questions to judge."""


class Mean(Part):
    """The mean over tasks with right and wrong answers, each in its first form."""

    tasks: Count
    difference: Figure
    """Points."""
    se: Figure
    interval: Items[Figure]
    verdict: Outcome | None
    """By the gate of the mean; null without one."""
    too_few: bool | None


class Drop(Part):
    """Gates: the largest drop that is allowed, in points; null is none."""

    mean: Figure | None
    any: Figure | None


class Work(Part):
    """What a model was asked, in this run."""

    requests: Count
    asked: Count
    """Tokens that the requests would take, each run from the start."""
    fed: Count
    """Tokens that were run."""
    generated: Count
    """Of these, tokens that the model wrote."""
    truncated: Count
    """Contexts that were cut to fit the cache."""
    merged: Count
    """Choices whose first token also holds the end of their context."""


class EvaluationDocument(Part):
    """What `helium-edge eval --json` prints under the key `evaluation`, and `evaluation.json` holds."""

    # `schema` is a method of pydantic models, so the field has another name in Python.
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    schema_id: Literal["helium-edge/evaluation"] = Field(alias="schema")
    schema_version: Annotated[str, Field(pattern=r"^1\.[0-9]+$")]
    verdict: Literal["passed", "failed", "undecided", "not judged"]
    """`failed`: surely worse than a gate allows. `undecided`: a gate lies within an interval. `not judged`: there
    are no gates, or no original."""
    passed: bool
    """Nothing failed."""
    failures: Items[str]
    """One line for each gate that surely does not hold."""
    subject: Subject
    manifest_sha256: str
    """Of the bundle's manifest, which lists the sha256 of every file."""
    environment: dict[str, Any]
    """Versions, processor, threads."""
    limit: Count
    """Most questions of a task; 0 is all."""
    gates: Drop
    tasks: Items[TaskRow]
    mean: Mean | None
    """Null without an original, or without a task of right and wrong answers."""
    work: dict[str, Work]
    """By model: `artifact` and `original`."""
    notes: Items[str]
    """What the reader must know."""
    seconds: Positive
    """Of the whole run."""
