"""Engines side by side in one run: a sample of each in turn, as `helium-edge bench --compare` takes them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helium_edge.bench.cases import Case
from helium_edge.bench.engine import BundleEngine, WorkerProcess
from helium_edge.bench.machine import BusyMeter
from helium_edge.bench.schedule import take_samples
from helium_edge.bundle import open_bundle
from peer.costs import size_of
from peer.engine import PeerEngine, PeerError, Shape
from peer.engines import ENGINES, versions
from peer.exporters import Pythons

OURS = "helium-edge"
KINDS = (OURS, *ENGINES)

Engine = BundleEngine | PeerEngine
Say = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """An engine of the command line.

    Attributes:
        name: For the table.
        kind: Of `KINDS`.
        path: The file or folder that it loads.
    """

    name: str
    kind: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> Entry:
        """Read `KIND=PATH` or `NAME:KIND=PATH`.

        Raises:
            ValueError: It is neither, or of no known kind.
        """
        label, _, path = text.partition("=")
        name, _, kind = label.rpartition(":")
        if kind not in KINDS or not path:
            raise ValueError(f"{text!r}: NAME:KIND=PATH is wanted, KIND one of {', '.join(KINDS)}")
        return cls(name or f"{kind} {Path(path).stem}", kind, Path(path))


def cases_of(contexts: Sequence[int], prompts: Sequence[int], steps: int) -> dict[str, Case]:
    """What is timed, by the name of the measure; prompts go into an empty context."""
    found = {f"decode@{context}": Case("decode", context, steps) for context in contexts}
    return found | {f"prefill {tokens}": Case("prefill", 0, tokens) for tokens in prompts}


class Run:
    """Engines that are loaded, the facts about them, and why the others are not.

    A peer that fails is dropped; a bundle of ours that fails ends the run.

    Args:
        say: Told what happens.

    Attributes:
        engines: By name, in the order of the command line.
        facts: Of each engine, for the results.
        not_run: Why an engine is not among them.
    """

    def __init__(self, say: Say) -> None:
        self._say = say
        self.engines: dict[str, Engine] = {}
        self.facts: dict[str, dict[str, Any]] = {}
        self.not_run: dict[str, str] = {}

    def load(self, entry: Entry, shape: Shape, pythons: Pythons) -> None:
        """Load an engine in a process of its own."""
        self._say(f"load {entry.name}")
        if entry.kind == OURS:
            engine, facts = _load_bundle(entry, shape.threads)
        else:
            try:
                engine, facts = _load_peer(entry, shape, pythons)
            except PeerError as error:
                self._drop(error)
                return
        self.engines[entry.name] = engine
        self.facts[entry.name] = {"kind": entry.kind, **facts}

    def measure(self, case: Case, repeats: int) -> tuple[dict[str, list[float]], float | None]:
        """Time a case on all engines; when a peer fails, the others are measured again.

        Returns:
            Seconds of a step or prompt, by engine, and the share of the processors that others took meanwhile.
        """
        for engine in list(self.engines.values()):
            if isinstance(engine, PeerEngine):
                try:
                    engine.ask("fill", context=case.context)
                except PeerError as error:
                    self._drop(error)
        while True:
            names = list(self.engines)
            busy = BusyMeter([os.getpid(), *(_pid(engine) for engine in self.engines.values())])
            try:
                samples = take_samples(list(self.engines.values()), [case], repeats=repeats)
            except PeerError as error:
                self._drop(error)
                continue
            return {name: samples[place, case] for place, name in enumerate(names)}, busy.share_of_others()

    def close(self) -> None:
        """Note the memory of each engine and end its process."""
        for name, engine in self.engines.items():
            if isinstance(engine, BundleEngine):
                self.facts[name]["memory"] = engine.worker.ask("memory")["memory"]
                engine.worker.close()
            else:
                with contextlib.suppress(PeerError):
                    self.facts[name]["memory"] = engine.ask("memory")["memory"]
                engine.close()

    def _drop(self, error: PeerError) -> None:
        self._say(f"{error.name}: not run: {error}")
        self.not_run[error.name] = str(error)
        engine = self.engines.pop(error.name, None)
        self.facts.pop(error.name, None)
        if isinstance(engine, PeerEngine):
            engine.close()


class Pool:
    """Samples of several loads: one is faster or slower than the next for as long as it lives."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[str, list[float]]] = {}
        self._others: dict[str, float | None] = {}

    def add(
        self, measure: str, samples: dict[str, list[float]], others: float | None
    ) -> tuple[dict[str, list[float]], float | None]:
        """Add what `Run.measure` returned; an engine that any load lacks is left out.

        Returns:
            All samples of the measure so far, by engine, and the largest share that others took.
        """
        before = self._samples.get(measure)
        if before is not None:
            samples = {name: before[name] + taken for name, taken in samples.items() if name in before}
            others = max((share for share in (others, self._others[measure]) if share is not None), default=None)
        self._samples[measure], self._others[measure] = samples, others
        return samples, others


def _pid(engine: Engine) -> int:
    return engine.worker.pid if isinstance(engine, BundleEngine) else engine.pid


def _load_bundle(entry: Entry, threads: int) -> tuple[Engine, dict[str, Any]]:
    manifest = open_bundle(entry.path, unverified=True).manifest
    engine = BundleEngine(entry.name, WorkerProcess())
    seconds = engine.load(entry.path, threads=threads, static=False)["ns"] / 1e9
    engine.worker.ask("first")
    engine.worker.ask("fill")
    written = sum(found.bytes for found in manifest.files)
    version = versions("helium-edge", manifest.runtime)
    return engine, {"version": version, "load_seconds": seconds, "bytes": written}


def _load_peer(entry: Entry, shape: Shape, pythons: Pythons) -> tuple[Engine, dict[str, Any]]:
    engine = open_peer(entry, shape, pythons)
    found = {"version": engine.ready["version"], "load_seconds": engine.ready["load_seconds"]}
    return engine, {**found, "bytes": size_of(entry.path)}


def open_peer(entry: Entry, shape: Shape, pythons: Pythons) -> PeerEngine:
    """Load a peer in a process of its own.

    Raises:
        PeerError: Its file was not made, or it cannot load it.
    """
    if not entry.path.exists():
        raise PeerError(entry.name, f"{entry.path.name} was not made")
    return PeerEngine(entry.name, entry.kind, entry.path, shape, pythons.get(entry.kind, sys.executable))
