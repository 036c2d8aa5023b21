"""What is measured: decode steps and prompts at context depths, and how many bytes a step reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from helium_edge.bundle import Manifest
from helium_edge.errors import UsageError

DEFAULT_CONTEXTS = (0, 512, 2048)
"""And as far as the cache goes."""


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes:
        phase: Decode steps, a prompt, or a text for a graph without a cache.
        context: Tokens that are in the cache before.
        tokens: Steps of a sample, or tokens of the prompt or text.
    """

    phase: Literal["decode", "prefill", "classify"]
    context: int
    tokens: int

    @property
    def units(self) -> int:
        """What the time of a sample is divided by: decode steps, or one call."""
        return self.tokens if self.phase == "decode" else 1


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        threads: Threads of one operator; 0 takes a thread for each physical core.
        contexts: Depths; None takes the default ones that fit.
        prefill: Lengths of prompts; None takes the length of the prefill graph.
        repeats: Samples of each case.
        warmup: Samples of each case before these, which are not counted.
        steps: Decode steps of a sample.
        loads: Processes in which a bundle is loaded anew.
        static: Use the pair of static graphs even where one serves both phases.
    """

    threads: int = 0
    contexts: tuple[int, ...] | None = None
    prefill: tuple[int, ...] | None = None
    repeats: int = 10
    warmup: int = 1
    steps: int = 8
    loads: int = 3
    static: bool = False


def plan_cases(manifests: Sequence[Manifest], settings: Settings) -> list[Case]:
    """The cases that all of these bundles can run, in the order in which they are run.

    Args:
        manifests: One or two; both language models or both not.
        settings: What was asked for.

    Raises:
        UsageError: A depth or length that was asked for does not fit, or the bundles cannot be compared.
    """
    if len({manifest.cache is None for manifest in manifests}) > 1:
        raise UsageError("one bundle generates text and the other does not: there is nothing to compare")
    if manifests[0].cache is None:
        tokens = min(manifest.prefill_len for manifest in manifests)
        if settings.contexts or settings.prefill:
            raise UsageError(
                f"{manifests[0].model.architecture} takes whole texts of {tokens} tokens: it has no context "
                "and no prefill to choose",
                hint="leave --context and --prefill out",
            )
        return [Case("classify", 0, tokens)]
    slots = min(manifest.cache_len for manifest in manifests)
    contexts = _contexts(settings, slots)
    lengths = settings.prefill or (min(manifest.prefill_len for manifest in manifests),)
    too_long = next((length for length in lengths if length > slots), None)
    if too_long is not None:
        raise UsageError(f"--prefill {too_long}: the KV cache has {slots} slots")
    prompts = [
        Case("prefill", context, length) for length in lengths for context in contexts if context + length <= slots
    ]
    missing = [length for length in lengths if not any(case.tokens == length for case in prompts)]
    return [
        *(Case("decode", context, settings.steps) for context in contexts),
        *prompts,
        *(Case("prefill", 0, length) for length in missing),
    ]


def _contexts(settings: Settings, slots: int) -> list[int]:
    deepest = slots - settings.steps
    if deepest < 0:
        raise UsageError(f"--steps {settings.steps}: the KV cache has {slots} slots")
    if settings.contexts is None:
        return [*(context for context in DEFAULT_CONTEXTS if context < deepest), deepest]
    too_deep = next((context for context in settings.contexts if context > deepest), None)
    if too_deep is not None:
        raise UsageError(
            f"--context {too_deep}: the KV cache has {slots} slots, of which {settings.steps} are for the "
            "steps of a sample",
            hint=f"{deepest} at most, or fewer --steps",
        )
    return sorted(set(settings.contexts))


def depths(cases: Sequence[Case]) -> list[int]:
    """Context depths of decode cases."""
    return sorted({case.context for case in cases if case.phase == "decode"})


def lengths(cases: Sequence[Case]) -> list[int]:
    """Lengths of prompts."""
    return sorted({case.tokens for case in cases if case.phase == "prefill"})


def step_bytes(manifest: Manifest, case: Case) -> int:
    """Bytes that one decode step reads: the weights as the kernels hold them, and the cache.

    A kernel that writes in place reads the rows that are there; a graph that appends attends to every slot of its
    cache, so that the whole of it is read. The embedding's one row, norms and activations are left out.
    """
    cache = manifest.cache
    assert cache is not None
    # The step in the middle of the sample.
    position = case.context + case.tokens / 2
    rows = position if cache.update == "in_place" else graph_slots(manifest, case.context)
    return int(manifest.memory.packed_bytes + rows * cache.bytes_per_token)


def graph_slots(manifest: Manifest, position: int) -> int:
    """Slots of the cache of the graph that decodes at a position: the shortest that fits."""
    slots = [graph.cache_len for graph in manifest.graphs if graph.phase != "prefill" and graph.cache_len]
    return min((length for length in slots if length > position), default=manifest.cache_len)


def first_positions(manifest: Manifest) -> list[int]:
    """For each decode graph, the first position at which it is used."""
    decode = [graph.cache_len for graph in manifest.graphs if graph.phase == "decode" and graph.cache_len]
    return [0, *sorted({length for length in decode if length < manifest.cache_len})]
