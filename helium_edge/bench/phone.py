"""A benchmark on a phone: the bundle is pushed over adb, the app of android_demo/ measures, its times come back.

The app writes one document, `bench/ID.json` beside its bundles, whole or not at all; statistics are made here.
"""

from __future__ import annotations

import secrets
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

import helium_edge
from helium_edge import push
from helium_edge.bench.cases import Case, Settings, depths, lengths, plan_cases, step_bytes
from helium_edge.bench.report import BenchReport, BundleResult, Timing
from helium_edge.bench.stats import Summary
from helium_edge.bench.subject import describe, estimate
from helium_edge.bundle import Bundle
from helium_edge.documents import DocumentError, parse_json
from helium_edge.errors import BundleError, HeliumEdgeError, MissingToolError, UsageError
from helium_edge.progress import Progress
from helium_edge.push import Adb
from helium_edge.targets.loading import target_of

SCHEMA = "helium-edge/phone-bench-1"
POLL_SECONDS = 2.0
MOST_POLLS = 3600
"""Looks after which an app that still runs, and has written nothing, is taken for stuck: two hours."""
GONE_POLLS = 3
"""Looks at which the app is not running and has written nothing, after which it is taken for dead."""

_PROPERTIES = {
    "processor": "ro.soc.model",
    "device": "ro.product.model",
    "android": "ro.build.version.release",
    "architecture": "ro.product.cpu.abi",
}


def run_on_phone(
    bundle: Bundle,
    settings: Settings,
    serial: str | None,
    progress: Progress,
    pause: Callable[[float], None] = time.sleep,
) -> BenchReport:
    """Push a bundle to a phone and measure it there.

    Args:
        bundle: The bundle.
        settings: How to measure; `threads` 0 takes those that the app is set to, `loads` is always 1.
        serial: Of the device; None takes the only one.
        progress: Receives stages.
        pause: Waits for so many seconds.

    Raises:
        UsageError: No device, or what was asked for does not fit.
        MissingToolError: adb or the app is not installed, or the device is gone.
        BundleError: The bundle did not arrive, or the app could not run it.
        HeliumEdgeError: The app ended without a word, or answered with something else.
    """
    made_for = target_of(bundle)
    if not made_for.runs_on_android:
        raise UsageError(f"{bundle.folder}: bundles of the target {made_for.name} do not run on Android")
    if any(graph.method is not None and not graph.planned_outputs for graph in bundle.manifest.graphs):
        raise UsageError(
            f"{bundle.folder}: its methods have no memory for what they return, which no app for Android gives",
            hint="export the checkpoint again",
        )
    if settings.static:
        raise UsageError("--static: the app takes the graph for both phases where there is one")
    cases = plan_cases([bundle.manifest], settings)
    adb = Adb(serial)
    target = push.target_folder(bundle)
    if not adb.shell(f"pm path {push.APP_ID}").startswith("package:"):
        raise MissingToolError(
            f"{push.APP_ID} is not installed on {adb.serial}",
            hint="android_demo/README.md: (cd android_demo && ./gradlew installFullDebug)",
        )
    steps = push.plan(bundle, adb, target)
    progress.stage("send", sum(step.remaining for step in steps if step.action != "there"), "B")
    push.push(bundle, adb, target, steps, progress)
    progress.stage("measure on the phone")
    document = _measure(adb, target, cases, settings, pause)
    return _report(bundle, document, _facts(adb, document), settings, cases)


def intent(target: str, identity: str, cases: Sequence[Case], settings: Settings) -> str:
    """The command that starts the measurement in a fresh process of the app."""
    extras = {
        "bundle": target.rpartition("/")[2],
        "benchmark": identity,
        "contexts": ",".join(str(context) for context in depths(cases)),
        "prompts": ",".join(str(length) for length in lengths(cases)),
        "repeats": str(settings.repeats),
        "warmup": str(settings.warmup),
        "steps": str(settings.steps),
        "threads": str(settings.threads),
    }
    # An empty word would be lost on the way: the shell of the device splits anew.
    words = [f"--es {name} {shlex.quote(text)}" for name, text in extras.items()]
    return f"am start -S -W -n {push.BENCHMARK_ACTIVITY} {' '.join(words)}"


def _measure(
    adb: Adb, target: str, cases: Sequence[Case], settings: Settings, pause: Callable[[float], None]
) -> dict[str, Any]:
    identity = secrets.token_hex(8)
    started = adb.shell(intent(target, identity, cases, settings))
    if "Error" in started:
        problem = next(line for line in started.splitlines() if "Error" in line)
        raise HeliumEdgeError(f"the app did not start: {problem.strip()}", hint="unlock the phone and try again")
    path = shlex.quote(f"{push.BUNDLES.rpartition('/')[0]}/bench/{identity}.json")
    gone = 0
    for _ in range(MOST_POLLS):
        pause(POLL_SECONDS)
        # The process first: a document that was written before it ended is then seen.
        running = adb.shell(f"pidof {push.APP_ID}").strip()
        text = adb.shell(f"[ -f {path} ] && cat {path}")
        if text.strip():
            return _parse(text)
        gone = 0 if running else gone + 1
        if gone == GONE_POLLS:
            raise HeliumEdgeError(
                "the app ended before it had measured",
                hint="memory may have run out: try a smaller --cache-len, or look at `adb logcat`",
            )
    raise HeliumEdgeError(
        f"the app runs, and has not answered in {MOST_POLLS * POLL_SECONDS / 60:.0f} minutes",
        hint="look at its screen; fewer --repeats or --steps take less time",
    )


def _parse(text: str) -> dict[str, Any]:
    try:
        document = parse_json(text.encode("utf-8", "surrogatepass"))
    except DocumentError:
        document = None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise HeliumEdgeError(
            "the app answered with something else than a benchmark", hint="install the app of this version"
        )
    if "error" in document:
        error = document["error"]
        raise BundleError(f"on the phone: {error['message']}", hint=error["hint"])
    return document


def _facts(adb: Adb, document: dict[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"serial": adb.serial}
    for name, key in _PROPERTIES.items():
        facts[name] = adb.shell(f"getprop {key}").strip() or "unknown"
    cores = adb.shell("nproc").strip()
    battery = {
        key.strip(): value.strip()
        for key, _, value in (line.partition(":") for line in adb.shell("dumpsys battery").splitlines())
    }
    charging = any(battery.get(f"{source} powered") == "true" for source in ("AC", "USB", "Wireless", "Dock"))
    return facts | {
        "cores": int(cores) if cores.isdigit() else None,
        "battery_level": battery.get("level"),
        "charging": charging if battery else None,
        "thermal_status": document["device"].get("thermal_status"),
    }


def _report(
    bundle: Bundle, document: dict[str, Any], facts: dict[str, Any], settings: Settings, cases: Sequence[Case]
) -> BenchReport:
    manifest = bundle.manifest
    timings = []
    for found in document["results"]:
        case = Case(found["phase"], found["context"], found["tokens"])
        seconds = Summary(tuple(ns / 1e9 / case.units for ns in found["ns"]))
        timings.append(Timing(case, seconds, step_bytes(manifest, case) if case.phase == "decode" else None))
    memory = {point: {"resident_bytes": nbytes} for point, nbytes in document["resident_bytes"].items()}
    result = BundleResult(
        bundle=str(bundle.folder),
        facts=describe(manifest, "of the app"),
        load_seconds=Summary((document["load_ns"] / 1e9,)),
        first_seconds=Summary((document["first_ns"] / 1e9,)),
        memory=memory,
        estimate=estimate(manifest),
        timings=timings,
    )
    thermal = facts["thermal_status"]
    return BenchReport(
        machine={"helium_edge": helium_edge.__version__, **facts},
        settings={
            "threads": document["device"]["threads"],
            "contexts": depths(cases),
            "prefill": lengths(cases),
            "repeats": settings.repeats,
            "warmup": settings.warmup,
            "steps": settings.steps,
            "loads": 1,
        },
        bandwidth={},
        load={},
        bundles=[result],
        notes=[f"the phone was hot at the start (thermal status {thermal})"] if (thermal or 0) > 1 else [],
    )
