"""A whole benchmark of one bundle, or of two in turn, on this machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import metadata
from typing import Any

import helium_edge
from helium_edge.bench import machine
from helium_edge.bench.bandwidth import read_test
from helium_edge.bench.cases import Case, Settings, depths, lengths, plan_cases, step_bytes
from helium_edge.bench.engine import BundleEngine, WorkerProcess
from helium_edge.bench.report import BenchReport, BundleResult, Timing
from helium_edge.bench.schedule import Samples, take_samples
from helium_edge.bench.stats import Summary, ratio
from helium_edge.bench.subject import describe, estimate
from helium_edge.bundle import Bundle
from helium_edge.errors import UsageError
from helium_edge.progress import Progress
from helium_edge.targets.loading import target_of

UNSTEADY = 1.2
"""Ratio of the two read tests from which on the machine is said not to be steady."""


@dataclasses.dataclass
class _Loads:
    """What loading one bundle several times gave; the engine is the last one."""

    engine: BundleEngine
    load_ns: list[int]
    first_ns: list[int]
    memory: dict[str, Any]


def run_bench(bundles: Sequence[Bundle], settings: Settings, progress: Progress) -> BenchReport:
    """Load, warm up and time one bundle, or two in turn.

    Args:
        bundles: One or two.
        settings: How to measure.
        progress: Receives stages.

    Raises:
        UsageError: The bundle is not run by a runtime here, or what was asked for does not fit.
        MissingDependencyError: Its runtime is not installed.
        BundleError: It cannot be loaded or run.
        ResourceError: Memory ran out.
    """
    for bundle in bundles:
        check_can_time(bundle)
    cases = plan_cases([bundle.manifest for bundle in bundles], settings)
    threads = settings.threads or machine.physical_cores()
    load: dict[str, float | None] = {
        "load_average": machine.load_average(),
        "busy_share": machine.busy_now(),
    }
    facts = machine.facts()
    bandwidth = {"before": _read_test(threads, progress)}
    with ExitStack() as stack:
        loads = _load_all(bundles, threads, settings, stack, progress)
        engines = [found.engine for found in loads]
        samples, load["others_share"] = _measure(engines, cases, settings, progress)
        for found in loads:
            found.memory["full"] = found.engine.worker.ask("memory")["memory"]
    bandwidth["after"] = _read_test(threads, progress)
    shown = dataclasses.asdict(settings) | {"threads": threads}
    return BenchReport(
        machine={"helium_edge": helium_edge.__version__, **facts},
        settings=shown | {"contexts": depths(cases), "prefill": lengths(cases)},
        bandwidth=bandwidth,
        load=load,
        bundles=[
            _result(bundle, found, cases, samples, place)
            for place, (bundle, found) in enumerate(zip(bundles, loads, strict=True))
        ],
        ratios={case: ratio(samples[0, case], samples[1, case]) for case in cases} if len(bundles) > 1 else {},
        notes=notes(load, bandwidth),
    )


def check_can_time(bundle: Bundle) -> None:
    """Refuse a bundle whose runtime is not here.

    Raises:
        UsageError: Nothing here runs it as a phone would.
        MissingDependencyError: Its runtime is not installed.
    """
    target = target_of(bundle)
    if target.timed_elsewhere:
        raise UsageError(
            f"{bundle.folder}: bundles of the target {target.name} are evaluated by an interpreter here, whose "
            "speed says nothing",
            hint=target.timed_elsewhere,
        )
    target.check_can_run()


def _read_test(threads: int, progress: Progress) -> float:
    progress.stage("read test")
    return read_test(threads)


def _load_all(
    bundles: Sequence[Bundle], threads: int, settings: Settings, stack: ExitStack, progress: Progress
) -> list[_Loads]:
    """Load each bundle in as many processes as asked for, in turn, and keep the last one of each."""
    progress.stage("load", settings.loads * len(bundles), "times")
    found: list[_Loads] = []
    for number in range(settings.loads):
        for place, bundle in enumerate(bundles):
            worker = WorkerProcess()
            stack.callback(worker.close)
            engine = BundleEngine(str(bundle.folder), worker)
            loaded = engine.load(bundle.folder, threads=threads, static=settings.static)
            first = worker.ask("first")
            if number == 0:
                found.append(_Loads(engine, [], [], {}))
            state = found[place]
            state.engine = engine
            state.load_ns.append(loaded["ns"])
            state.first_ns.append(first["ns"])
            state.memory = {"before": loaded["before"], "ready": first["memory"]}
            if number < settings.loads - 1:
                worker.close()
            progress.advance()
    return found


def _measure(
    engines: Sequence[BundleEngine], cases: Sequence[Case], settings: Settings, progress: Progress
) -> tuple[Samples, float | None]:
    """All samples, and the share of the processors that others took meanwhile."""
    for engine in engines:
        engine.worker.ask("fill")
    rounds = settings.warmup + settings.repeats
    progress.stage("measure", rounds * len(cases) * len(engines), "samples")
    meter = machine.BusyMeter([engine.worker.pid for engine in engines])
    samples = take_samples(
        engines,
        cases,
        repeats=settings.repeats,
        warmup=settings.warmup,
        on_sample=lambda engine, case: progress.advance(1, f"{case.phase} at {case.context}, {engine.name}"),
    )
    return samples, meter.share_of_others()


def _result(bundle: Bundle, loads: _Loads, cases: Sequence[Case], samples: Samples, place: int) -> BundleResult:
    manifest = bundle.manifest
    return BundleResult(
        bundle=str(bundle.folder),
        facts=describe(manifest, metadata.version(manifest.runtime)),
        load_seconds=Summary(tuple(ns / 1e9 for ns in loads.load_ns)),
        first_seconds=Summary(tuple(ns / 1e9 for ns in loads.first_ns)),
        memory=loads.memory,
        estimate=estimate(manifest),
        timings=[
            Timing(
                case,
                Summary(tuple(samples[place, case])),
                step_bytes(manifest, case) if case.phase == "decode" else None,
            )
            for case in cases
        ],
    )


def notes(load: dict[str, float | None], bandwidth: dict[str, float]) -> list[str]:
    """What makes the figures doubtful."""
    found = []
    others = load.get("others_share")
    busy = load.get("busy_share")
    if others is not None and others > machine.BUSY_SHARE:
        found.append(f"others used {others:.0%} of the processors meanwhile: the figures are too slow")
    elif busy is not None and busy > machine.BUSY_SHARE:
        found.append(f"the machine was busy at the start ({busy:.0%} of its processors): close other programs")
    low, high = min(bandwidth.values()), max(bandwidth.values())
    if high > UNSTEADY * low:
        found.append(
            f"the read test found {low / 1e9:.1f} and {high / 1e9:.1f} GB/s: the machine is not steady, "
            "measure again"
        )
    return found
