"""The JSON document of a parity run: the models that describe it, and reading one back.

`ParityReport.to_json` writes it; docs/parity.md explains it. the JSON Schema is made from the models
(`parity.schema`). Of a later minor version unknown fields are allowed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from helium_edge.documents import DocumentError, parse_json
from helium_edge.documents import read_document as read_bytes
from helium_edge.errors import UPGRADE, InputError
from helium_edge.parity.statistics import Aggregate, Bucket, Histogram
from helium_edge.parity.window_figures import WindowFigures
from helium_edge.schemas import (
    Count,
    Figure,
    Items,
    Number,
    Part,
    Positive,
    Share,
    first_problem,
)

Document = dict[str, Any]
"""A parity document: plain JSON data of `ParityReport.to_json`."""

SCHEMA: Final = "helium-edge/parity"
SCHEMA_VERSION = "2.1"
MAJOR = 2
MAX_BYTES = 64 << 20

LevelName = Literal["L0", "L1", "L2", "L3"]


class FileSize(Part):
    """A file of the bundle."""

    path: str
    """Inside the bundle."""
    bytes: Count


class Subject(Part):
    """What was compared; empty in the check that an export makes."""

    bundle: str = ""
    recipe: str = ""
    target: str = ""
    runtime: str = ""
    checkpoint: str = ""
    checkpoint_sha256: str = ""
    recipe_sha256: str = ""
    files: Items[FileSize] = ()
    bytes: Count = 0
    """All files."""


class TextFacts(Part):
    """What the models read."""

    source: str = ""
    languages: Items[str] = ()
    windows: Count = 0
    """Conversations."""
    tokens: Count = 0
    sha256: str = ""
    """Of the text's tokens."""


class Gate(Part):
    """One gate, judged."""

    name: str
    """As in the recipe; `nonfinite` is always on."""
    measured: Figure
    """The value; null is NaN or infinity."""
    standard_error: Figure
    """Of `measured`, where the gate allows for it; 0 where it does not."""
    bound: Literal["max", "min"]
    """Whether `limit` is the largest or the smallest value that passes."""
    limit: Number | None
    """The bound; null is reported and not gated."""
    passed: bool | None
    """null where there is no limit."""


@dataclass(frozen=True)
class StoreDifference:
    """One tensor of the artifact that is not what the store says."""

    tensor: str
    """Its name."""
    detail: str
    """What differs, and where."""


class StoreLevel(Part):
    """L0: every tensor of the artifact against the quantized store, bit for bit."""

    question: str
    """What the level asks."""
    passed: bool
    failures: Items[str]
    tensors: Count
    """Number of tensors compared."""
    differences: Items[StoreDifference]


class Level(Part):
    """L1, L2 or L3: logits of a candidate against those of a reference."""

    question: str
    """What the level asks."""
    passed: bool
    failures: Items[str]
    """One line for each gate that does not hold."""
    gates: Items[Gate]
    """Every gate, with or without a limit; judged on `overall`."""
    caveat: str | None
    """What the reader must know of how the candidate was run."""
    windows: Count
    """Conversations that were run."""
    tokens: Count
    """Positions compared."""
    overall: Aggregate
    languages: dict[str, Aggregate]
    """The same per language, in the order of evaluation."""
    histogram: Histogram | None
    """KLD of all positions."""
    by_position: Items[Bucket]
    """Mean KLD along the conversation."""
    by_window: Items[WindowFigures] = ()
    """Figures of each window, by which two runs are paired."""
    notes: dict[str, Any]
    """Further facts by name, as the activation rule of L1."""


class Levels(TypedDict, total=False):
    """The levels that were run."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    L0: StoreLevel
    L1: Level
    L2: Level
    L3: Level


@dataclass(frozen=True)
class CheckResult:
    """One check of the cache contract on the real runtime."""

    name: str
    """What must hold, as a short sentence: `prefill equals decode`."""
    measured: Figure
    """Largest relative difference found, or what `detail` says."""
    limit: Figure | None
    """Largest that passes; null where the check is yes or no."""
    passed: bool
    detail: str = ""
    """What was run, or what went wrong and where; one line."""


@dataclass(frozen=True)
class GreedySample:
    """Greedy continuations of one prompt, side by side."""

    language: str
    """Of the prompt."""
    prompt: str
    """Its text."""
    reference: str
    """What the original writes."""
    candidate: str
    """What the export writes."""
    tokens: Count
    """New tokens of each."""
    first_divergence: Count | None
    """Index of the first new token that differs; null when all agree."""
    margin: Figure | None
    """There, the original's logit of its choice less that of the export's choice, over rms(logit)."""
    ambiguous: bool
    """The margin is a near tie: no failure."""


class LayerError(Part):
    """Errors of one operation of one graph."""

    phase: str = ""
    """Of the calls: prefill or decode."""
    graph: str = ""
    """File or method."""
    layer: Count | None
    """null is outside the layers: embedding, final norm, head."""
    op: str
    """The operation."""
    own_error: Figure | None = None
    """Relative error with the reference's input: what the op itself does wrong."""
    own_snr_db: Figure | None = None
    """The same in dB."""
    accumulated_error: Figure | None = None
    """Relative error with the candidate's own input: what arrives here."""
    accumulated_snr_db: Figure | None = None
    """The same in dB."""
    worst_position: int = 0
    """Token position of the largest difference."""
    guilty: bool = False
    """The error begins here."""


class GuiltyOp(Part):
    """The first op whose own error is out of bounds."""

    layer: int | None
    op: str


class Layers(Part):
    """Localisation: errors op by op."""

    arithmetic: str = ""
    """How the yardstick treats activations, in words."""
    exact: bool = True
    """Whether that is known to be what the kernels do; if not, no row is called guilty by it."""
    guilty: GuiltyOp | None
    rows: Items[LayerError]


@dataclass(frozen=True)
class Change:
    """One figure, before and after."""

    level: str
    text: str
    """A language, or `all`."""
    metric: str
    """Its name in the document."""
    before: Figure
    """In the baseline."""
    after: Figure
    """In this run; null where it is not finite."""
    allowed: Figure
    """How much worse it may be."""
    rule: Literal["paired", "independent", "ratio"]
    """Where `allowed` comes from."""
    verdict: Literal["worse", "same", "better"]
    """`worse` and `better` are beyond `allowed`."""

    def __str__(self) -> str:
        change = f"{self.verdict} by {abs(self.after - self.before):.2g}, {self.allowed:.2g} is allowed"
        return f"{self.level} {self.text}: {self.metric} {self.after:.4g} was {self.before:.4g}: {change}"


class Baseline(Part):
    """Comparison with an earlier document."""

    source: str = ""
    passed: bool = True
    failures: Items[str]
    """One line for each regression."""
    improvements: Items[str] = ()
    notes: Items[str] = ()
    """Differences of the environment, which explain changes and forbid none."""
    changes: Items[Change] = ()


class CostFacts(Part):
    """Where the time went, in seconds."""

    wall: Positive
    """All of it."""
    forward: dict[str, Positive]
    """Inside forward passes, by who ran."""
    cached_reference: bool
    """The reference's logits came from the disk."""
    overhead: Share
    """Share of the time outside forward passes and loading."""


class ParityDocument(Part):
    """What `helium-edge parity --json` prints under the key `parity`."""

    # `schema` is a method of pydantic models, so the field has another name in Python.
    model_config = ConfigDict(validate_by_name=True, validate_by_alias=True)

    schema_id: Literal["helium-edge/parity"] = Field(alias="schema")
    schema_version: Annotated[str, Field(pattern=r"^2\.[0-9]+$")]
    passed: bool
    """Whether everything holds."""
    failures: Items[str]
    """One line for each thing that does not hold, the level or `cache` in front."""
    subject: Subject
    environment: dict[str, Any]
    """Versions, processor, threads."""
    text: TextFacts
    levels: Levels
    elsewhere: dict[str, Level] = Field(default_factory=dict)
    """L3 as other kinds of processors compute, by their names: emulated, and held to the same gates."""
    checks: Items[CheckResult]
    """The cache contract on the real runtime."""
    greedy: Items[GreedySample]
    """Greedy continuations side by side."""
    layers: Layers | None
    """The table of the localisation; null when it was not made."""
    oracle: dict[str, Any] | None
    """The second oracle's comparison; null when it was not asked for."""
    baseline: Baseline | None
    """Comparison with an earlier document; null when none was given."""
    cost: CostFacts | None
    """Where the time went; null where it was not measured."""


def name_elsewhere(processor: str) -> str:
    """What L3 on another processor is called beside the levels."""
    return f"L3 {processor}"


def all_levels(document: Document) -> dict[str, Any]:
    """The levels of a document by name, and behind them L3 on other processors."""
    elsewhere = document.get("elsewhere", {}).items()
    return {**document["levels"], **{name_elsewhere(processor): level for processor, level in elsewhere}}


def read_document(path: Path) -> Document:
    """Read a stored document: the document itself, or what `helium-edge parity --json` printed.

    Raises:
        InputError: Unreadable, no parity document, of another major version, or against its model.
    """
    try:
        data = parse_json(read_bytes(path, MAX_BYTES))
    except OSError as error:
        raise InputError(f"{path}: not readable: {error.strerror}") from error
    except DocumentError as error:
        raise InputError(f"{path}: {error}") from error
    if isinstance(data, dict) and "schema" not in data:
        if "error" in data and "parity" not in data:
            raise InputError(f"{path}: holds an error and no figures{_error_of(data)}")
        data = data.get("parity", data)
    return check_document(data, where=str(path))


def check_document(data: Any, *, where: str) -> Document:
    """Check that data is a parity document of this major version.

    Args:
        data: Parsed JSON.
        where: Names its file in messages.

    Raises:
        InputError: It is not; the first field that is wrong is named.
    """
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise InputError(
            f'{where}: not a parity document: "schema" must be {SCHEMA!r}',
            hint="write one with `helium-edge parity BUNDLE --json > FILE`",
        )
    version = data.get("schema_version")
    major = version.partition(".")[0] if isinstance(version, str) else ""
    if major != str(MAJOR):
        newer = major.isdecimal() and int(major) > MAJOR
        raise InputError(
            f"{where}: parity document of version {str(version)[:20]}; this helium-edge reads {MAJOR}.x",
            hint=UPGRADE if newer else "run `helium-edge parity` again",
        )
    try:
        # Through JSON: strict mode then takes objects for dataclasses and nothing else loosely.
        ParityDocument.model_validate_json(json.dumps(data))
    except ValidationError as error:
        place, problem = first_problem(error, data)
        raise InputError(f"{where}: {place}: {problem}") from error
    return data


def _error_of(data: Mapping[str, Any]) -> str:
    """What a failed command printed instead of a document."""
    error = data["error"]
    return f": {error['message']}" if isinstance(error, dict) and "message" in error else ""
