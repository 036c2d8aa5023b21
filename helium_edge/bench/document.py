"""The JSON document of a benchmark: the models that describe it.

`BenchReport.to_json` writes it; docs/bench.md explains it. the JSON Schema is made from the models
(`bench.schema`). Of a later minor version unknown fields are allowed.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from helium_edge.schemas import Count, Items, Number, Part, Size

SCHEMA: Final = "helium-edge/bench"
SCHEMA_VERSION = "1.0"


class SampleFigures(Part):
    """Samples of one quantity."""

    median: Number
    q1: Number
    """First quartile, interpolated linearly."""
    q3: Number
    """Third quartile."""
    min: Number
    max: Number
    n: Size
    samples: Annotated[Items[Number], Field(min_length=1)]
    """In the order in which they were taken."""


class Speed(SampleFigures):
    """How many times as fast the first bundle was, pair by pair."""

    low: Number
    """Lower end of the interval that holds the median with the `confidence`."""
    high: Number
    """Its upper end."""
    confidence: Number


class Machine(Part):
    """What it ran on."""

    helium_edge: str = ""
    serial: str = ""
    """Of a phone."""
    processor: str
    device: str = ""
    android: str = ""
    architecture: str = ""
    cores: Count | None = None
    logical_processors: Count = 0
    l3_bytes: int | None = None
    """Size of the last cache."""
    governor: str | None = None
    """Of the frequency."""
    memory_bytes: int | None = None
    memory_available_bytes: int | None = None
    """At the start."""
    system: str = ""
    python: str = ""
    battery_level: str | None = None
    charging: bool | None = None
    thermal_status: int | None = None
    """As Android tells it: 0 is cool."""


class MeasureSettings(Part):
    """How it was measured."""

    threads: Count
    contexts: Items[Count]
    prefill: Items[Count]
    repeats: Size
    warmup: Count = 0
    steps: Count = 0
    loads: Count = 0
    static: bool = False


class Load(Part):
    """How busy the machine was."""

    load_average: Number | None = None
    """Of the minute before."""
    busy_share: Number | None = None
    """Of all processors' time, just before the start."""
    others_share: Number | None = None
    """Of all processors' time, taken by other programs while samples were taken."""


class Bandwidth(Part):
    """Of a read test with as many threads, bytes per second."""

    before: Number = 0.0
    after: Number = 0.0


class Memory(Part):
    """Resident memory of the process that runs the bundle; null where the system does not tell."""

    anonymous_bytes: int | None = None
    """Memory of the process that only the swap could take."""
    mapped_bytes: int | None = None
    """Pages of files, which the system can take back."""
    peak_bytes: int | None = None
    """The most of both together so far."""
    resident_bytes: int | None = None
    """Both together, where they are not told apart: on phones."""


class MemoryPoints(Part):
    """Memory along the run."""

    before: Memory = Memory()
    """Before loading: the interpreter and the runtime."""
    ready: Memory = Memory()
    """After each graph was run once."""
    full: Memory = Memory()
    """At the end, with every slot of the cache filled."""


class EstimatedMemory(Part):
    """What the manifest foretells, in bytes."""

    weights: Count = 0
    packed: Count = 0
    cache: Count = 0
    activations: Count = 0


class Result(Part):
    """One case of one bundle."""

    phase: Literal["decode", "prefill", "classify"]
    context: Count
    """Tokens in the cache before."""
    tokens: Count
    """Decode steps of a sample, or tokens of the prompt or text."""
    ms: SampleFigures
    """Milliseconds of a decode step, of a prompt up to the choice of the first token after it, or of a text."""
    tokens_per_second: Number = 0.0
    """At the median; not for texts."""
    bytes_read: Count = 0
    """By one decode step: the weights as the kernels hold them, and the cache."""
    bandwidth_share: Number | None = None
    """Of the better read test, at the median."""


class MeasuredBundle(Part):
    """Everything about one bundle."""

    bundle: str
    """The folder."""
    name: str
    recipe: str
    target: str
    runtime: str
    runtime_version: str
    parameters: Count
    cache_len: int | None
    """Slots of the cache; null without one."""
    load_ms: SampleFigures
    """From the call that loads to graphs that can run, each in a new process."""
    first_call_ms: SampleFigures
    """The first call after that: a prompt of the prefill graph's length, or a text."""
    memory: MemoryPoints
    estimated_memory: EstimatedMemory
    results: Annotated[Items[Result], Field(min_length=1)]


class CaseRatio(Part):
    """Two bundles compared in one case."""

    phase: str
    context: Count
    tokens: Count
    speed: Speed


class BenchDocument(Part):
    """What `helium-edge bench --json` prints."""

    # `schema` is a method of pydantic models, so the field has another name in Python.
    schema_id: Literal["helium-edge/bench"] = Field(alias="schema")
    schema_version: Annotated[str, Field(pattern=r"^1\.[0-9]+$")]
    machine: Machine
    settings: MeasureSettings
    load: Load
    bandwidth_bytes_per_second: Bandwidth | None
    """Null where there was no read test."""
    bundles: Annotated[Items[MeasuredBundle], Field(min_length=1, max_length=2)]
    ratios: Items[CaseRatio]
    """Of the two bundles, case by case; empty without a second."""
    notes: Items[str]
    """What makes the figures doubtful."""
