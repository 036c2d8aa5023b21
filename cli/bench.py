"""`helium-edge bench`: how fast a bundle is on this machine, or how two compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from helium_edge.errors import UsageError

from . import _bench_view, _console
from ._options import BundleArgument, JsonOption, RevisionOption, StaticOption, UnverifiedOption, revision_words

if TYPE_CHECKING:
    from helium_edge.bundle import Bundle

EPILOG = """\b
Examples:
  helium-edge bench tiny
  helium-edge bench tiny --context 0,256 --prefill 64,128 --threads 2 --json
  helium-edge bench tiny --compare tiny-int8
  helium-edge bench tiny --adb
  helium-edge bench tiny --phone-model snapdragon-8-gen-3
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench", short_help="Measure speed and memory of a bundle.", epilog=EPILOG)(bench)


def bench(
    bundle: BundleArgument,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="BUNDLE",
            help="Measure this one in turn with the other; a Hub id may be org/name@REV.",
            show_default=False,
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Tokens in the cache; by default 0, 512, 2048 and the most.",
            show_default=False,
        ),
    ] = None,
    prefill: Annotated[
        str | None,
        typer.Option(
            metavar="N,N", help="Lengths of prompts; by default that of the prefill graph.", show_default=False
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=0, metavar="N", help="Threads of one operator; 0 is one for each physical core.")
    ] = 0,
    repeats: Annotated[int, typer.Option(min=2, metavar="N", help="Samples of each figure.")] = 10,
    warmup: Annotated[int, typer.Option(min=0, metavar="N", help="Samples before these, not counted.")] = 1,
    steps: Annotated[int, typer.Option(min=1, metavar="N", help="Decode steps of one sample.")] = 8,
    loads: Annotated[int, typer.Option(min=1, metavar="N", help="Times to load it, each in a new process.")] = 3,
    static: StaticOption = False,
    adb: Annotated[
        bool, typer.Option("--adb", help="Push it to a connected phone and measure there, with the demo app.")
    ] = False,
    phone_model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Measure nothing; predict from counted instructions: snapdragon-8-gen-3, pixel-8, cortex-a78.",
            show_default=False,
        ),
    ] = None,
    serial: Annotated[
        str | None,
        typer.Option(
            metavar="SERIAL", help="The device, when there are several: see `adb devices`.", show_default=False
        ),
    ] = None,
    revision: RevisionOption = None,
    unverified: UnverifiedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure decode, prefill, time to first token, loading and memory of a bundle on this machine.

    Each bundle runs in a process of its own. A figure is the median of its samples, with the quartiles; with
    --compare the samples of both stand next to each other in time. docs/bench.md explains the figures.
    """
    from helium_edge.bench import Settings, run_bench, run_on_phone
    from helium_edge.bundle import open_bundle, resolve_bundle
    from helium_edge.first_run import ensure_runs

    if phone_model is not None:
        found = open_bundle(resolve_bundle(bundle, revision=revision), unverified=unverified)
        _predict(str(bundle), found, phone_model, as_json=as_json)
        return
    settings = Settings(
        threads=threads,
        contexts=_numbers("--context", context, least=0),
        prefill=_numbers("--prefill", prefill, least=1),
        repeats=repeats,
        warmup=warmup,
        steps=steps,
        loads=loads,
        static=static,
    )
    if adb and compare is not None:
        raise UsageError("--compare: bundles are compared on one machine; measure each with --adb, and --json")
    folders = [resolve_bundle(bundle, revision=revision)]
    if compare is not None:
        folders.append(resolve_bundle(compare))
    opened = [open_bundle(folder, unverified=unverified) for folder in folders]
    for each in opened if not adb else ():
        ensure_runs(each, unverified=unverified)
    with _console.progress() as progress:
        if adb:
            report = run_on_phone(opened[0], settings, serial, progress)
        else:
            report = run_bench(opened, settings, progress)
    if as_json:
        _console.document(report.to_json())
    else:
        _bench_view.show_bench(report)
    for text in report.notes:
        _console.note(f"note: {text}")
    _console.next_step("parity", bundle, *revision_words(revision))


def _predict(name: str, bundle: Bundle, phone: str, *, as_json: bool) -> None:
    """Show what a bundle should do on a phone that is not here."""
    from helium_edge.bench.phones import find_phone, predict_bundle

    from ._phones_view import show_prediction

    found = predict_bundle(bundle, find_phone(phone))
    if as_json:
        _console.document({"bundle": name, "prediction": found.to_json()})
    else:
        show_prediction(found)
    _console.next_step("bench", name, "--adb")


def _numbers(option: str, text: str | None, *, least: int) -> tuple[int, ...] | None:
    """Numbers with commas between them; None stays None.

    Raises:
        UsageError: Something else, or a number that is too small.
    """
    if text is None:
        return None
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and len(word) < 10 and int(word) >= least for word in words):
        raise UsageError(f"{option} {text!r}: not whole numbers from {least} on, with commas between them")
    return tuple(dict.fromkeys(map(int, words)))
