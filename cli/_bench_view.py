"""How a benchmark is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import _console
from ._format import count, duration, size

if TYPE_CHECKING:
    from helium_edge.bench import BenchReport, BundleResult, Ratio, Summary, Timing

_CASE = ("", "context", "tokens")


def show_bench(report: BenchReport) -> None:
    """Show a whole report."""
    _show_machine(report)
    for result in report.bundles:
        _show_bundle(result, report.best_bandwidth)
    if report.ratios:
        _show_ratios(report)


def _show_machine(report: BenchReport) -> None:
    machine, load = report.machine, report.load
    cores = machine.get("cores")
    known = [machine.get("device"), machine["processor"], cores and f"{cores} core{'s' * (cores > 1)}"]
    if "governor" in machine:
        known.append(f"governor {machine['governor'] or 'unknown'}")
    if machine.get("android"):
        known += [f"Android {machine['android']}", "charging" if machine.get("charging") else "on battery"]
    average, others = load.get("load_average"), load.get("others_share")
    busy = [] if average is None else [f"load average {average:.1f} at the start"]
    busy += [] if others is None else [f"others took {others:.0%} of the processors"]
    speeds = [f"{speed / 1e9:.1f} GB/s {when}" for when, speed in report.bandwidth.items()]
    shown: list[tuple[str, object]] = [
        ("machine", ", ".join(str(fact) for fact in known if fact)),
        ("threads", report.settings["threads"]),
    ]
    shown += [("load", ", ".join(busy))] if busy else []
    shown += [("memory reads", f"{', '.join(speeds)}, with as many threads")] if speeds else []
    shown.append(("figures", f"median [quartiles] of {report.settings['repeats']} samples"))
    _console.fields(shown)


def _show_bundle(result: BundleResult, bandwidth: float | None) -> None:
    facts = result.facts
    _console.heading(
        f"{result.bundle}: {facts['recipe']}, {count(facts['parameters'])} parameters, {facts['runtime']} "
        f"{facts['runtime_version']}"
    )
    decode = [timing for timing in result.timings if timing.case.phase == "decode"]
    if decode:
        _show_decode(decode, bandwidth)
    others = [timing for timing in result.timings if timing.case.phase != "decode"]
    if others[:1] and others[0].case.phase == "prefill":
        _console.table(
            ["prefill at", "tokens", "tok/s", "ms", "[quartiles]"],
            [
                (f"{timing.case.context:,}", timing.case.tokens, _rate(timing), *_times(timing.seconds))
                for timing in others
            ],
            right=["prefill at", "tokens", "tok/s", "ms"],
        )
    elif others:
        _console.table(
            ["text of", "ms", "[quartiles]"],
            [(f"{timing.case.tokens} tokens", *_times(timing.seconds)) for timing in others],
            right=["ms"],
        )
    _console.line("")
    _console.fields([*_start(result), *_memory(result)])


def _show_decode(timings: Sequence[Timing], bandwidth: float | None) -> None:
    rows = []
    for timing in timings:
        share = timing.share_of(bandwidth)
        rows.append(
            (
                f"{timing.case.context:,}",
                _rate(timing),
                *_times(timing.seconds),
                size(timing.bytes_read or 0),
                "-" if share is None else f"{share:.0%}",
            )
        )
    columns = ["decode at", "tok/s", "ms/token", "[quartiles]", "reads", "of bandwidth"]
    _console.table(columns, rows, right=["decode at", "tok/s", "ms/token", "reads", "of bandwidth"])
    _console.line("")


def _start(result: BundleResult) -> list[tuple[str, object]]:
    load, first = result.load_seconds, result.first_seconds
    shown: list[tuple[str, object]] = [("load", _short(load)), ("first call", f"{_short(first)}, after loading")]
    prompt = result.first_token
    if prompt is not None:
        shown.append(("first token", f"{_short(prompt.seconds)}, prompt of {prompt.case.tokens} tokens, warm"))
    return shown


def _memory(result: BundleResult) -> list[tuple[str, object]]:
    shown: list[tuple[str, object]] = []
    names = {"before": "before loading", "ready": "graphs ready", "full": "cache full"}
    for point, found in result.memory.items():
        anonymous, mapped = found.get("anonymous_bytes"), found.get("mapped_bytes")
        resident = found.get("resident_bytes")
        if resident is not None:
            shown.append((names.get(point, point), f"{size(resident)} resident"))
        if anonymous is not None and mapped is not None:
            shown.append((names.get(point, point), f"{size(anonymous)} anonymous, {size(mapped)} mapped"))
    parts = result.estimate
    shown.append(("estimated", f"{size(parts['packed'])} packed weights, {size(parts['cache'])} cache"))
    return shown


def _show_ratios(report: BenchReport) -> None:
    first, second = report.bundles
    _console.heading(f"{first.bundle} against {second.bundle}, sample by sample")
    rows = []
    for case, ratio in report.ratios.items():
        label = {"decode": "decode", "prefill": "prefill", "classify": "text"}[case.phase]
        tokens = "" if case.phase == "decode" else str(case.tokens)
        rows.append((label, f"{case.context:,}", tokens, _ratio(ratio), _interval(ratio), _verdict(ratio)))
    columns = ["", "context", "tokens", "speed", "95% interval", ""]
    _console.table(columns, rows, right=["context", "tokens", "speed"])
    _console.line("speed: how many times as fast the first is, median of the pairs of samples")


def _ratio(ratio: Ratio) -> str:
    return f"{ratio.pairs.median:.3f}"


def _interval(ratio: Ratio) -> str:
    return f"{ratio.low:.3f} to {ratio.high:.3f}"


def _verdict(ratio: Ratio) -> str:
    if not ratio.differs:
        return "no difference seen"
    return "faster" if ratio.pairs.median > 1 else "slower"


def _rate(timing: Timing) -> str:
    rate = timing.tokens_per_second
    return f"{rate:,.1f}" if rate < 1000 else f"{rate:,.0f}"


def _times(seconds: Summary) -> tuple[str, str]:
    low, high = seconds.quartiles
    return _ms(seconds.median), f"[{_ms(low)}, {_ms(high)}]"


def _ms(seconds: float) -> str:
    value = seconds * 1e3
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 10 else f"{value:,.1f}"


def _short(seconds: Summary) -> str:
    low, high = seconds.quartiles
    return f"{duration(seconds.median)} [{duration(low)}, {duration(high)}]"
