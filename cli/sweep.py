"""`helium-edge sweep`: recipes by tasks, on one machine or on a Ray cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from helium_edge.errors import HeliumEdgeError

from . import _console
from ._options import HtmlOption, JsonOption

EPILOG = """\b
Examples:
  helium-edge sweep --checkpoint C --recipes onnx-int4,onnx-int8 --store DIR
  helium-edge sweep --checkpoint C --recipes A,B --store DIR --html sweep.html
  helium-edge sweep --checkpoint C --recipes A,B --store DIR --engine ray
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("sweep", short_help="Export recipes and ask each the same tasks.", epilog=EPILOG)(sweep)


def sweep(
    checkpoint: Annotated[
        str, typer.Option(metavar="CHECKPOINT", help="A folder, a Hub id, or helium-tiny.", show_default=False)
    ],
    recipes: Annotated[
        str, typer.Option(metavar="R,R", help="Names or files of recipes, of one target each.", show_default=False)
    ],
    store: Annotated[
        Path,
        typer.Option(
            file_okay=False,
            metavar="DIR",
            help="Bundles, answers and results; a sweep goes on there.",
            show_default=False,
        ),
    ],
    tasks: Annotated[str, typer.Option(metavar="T,T", help="As of `eval`.")] = "built-in",
    data: Annotated[
        Path | None,
        typer.Option(file_okay=False, metavar="DIR", help="Questions, as of `eval`.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="Questions of a task; 0 is all.")] = 1000,
    cache_len: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Slots of the KV cache.", show_default=False)
    ] = None,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="A process a cell on this machine, or a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Of the Ray cluster; else one is started here.", show_default=False
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=0, metavar="N", help="Most workers at a time here; 0 is what fits.")
    ] = 0,
    threads: Annotated[int, typer.Option(min=1, metavar="N", help="Processors of a worker.")] = 1,
    no_parity: Annotated[bool, typer.Option("--no-parity", help="Compare no logits.")] = False,
    no_speed: Annotated[bool, typer.Option("--no-speed", help="Measure no speed.")] = False,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Export each recipe, ask every bundle and the original the same tasks, and show quality against size.

    Cells that the store holds are not computed again: an interrupted sweep goes on, by the same command.
    docs/sweep.md explains it.
    """
    from helium_edge.durable import replace_file
    from helium_edge.report import check_destinations
    from helium_edge.sweep.cells import CellStore
    from helium_edge.sweep.document import make_document
    from helium_edge.sweep.prepare import prepare

    check_destinations(html=html)
    if engine == "ray":
        from helium_edge.sweep.ray import require_ray

        require_ray()
    asked = prepare(
        checkpoint, _words(recipes), _words(tasks), data=data, limit=limit, cache_len=cache_len, threads=threads,
        parity=not no_parity, speed=not no_speed,
    )  # fmt: skip
    cells, results = asked.cells(), CellStore(store)
    known = sum(results.result(cell) is not None for cell in cells)
    _console.note(f"{len(cells)} cells, {known} known")
    with _console.progress() as progress:
        progress.stage("sweep", len(cells), "cells")
        progress.advance(known)
        if engine == "ray":
            from helium_edge.sweep.ray import run_ray

            failed = run_ray(cells, results, address=address, threads=threads, progress=progress)
        else:
            from helium_edge.sweep.local import run_local

            failed = run_local(cells, results, jobs=jobs, threads=threads, progress=progress)
        document = make_document(asked, cells, results, failed)
    if not as_json:
        _show(document)
    if html is not None:
        from helium_edge.report.sweep import render_sweep_html

        replace_file(html, render_sweep_html(document).encode("utf-8"))
        _console.note(f"written: {html}")
    if as_json and not failed:
        _console.document({"store": str(store), "sweep": document})
    if failed:
        first = failed[0].error
        error = HeliumEdgeError(
            f"{len(failed)} of {len(cells)} cells failed: {first.message}",
            hint=first.hint or "run the same command again",
        )
        error.exit_code = first.exit_code
        raise error
    _console.next_step("eval", store / "bundles")


def _show(document: dict[str, object]) -> None:
    from helium_edge.report.sweep import COLUMNS, cells_of

    recipes = document["recipes"]
    assert isinstance(recipes, list)
    _console.title(f"Sweep of {document['checkpoint']}: {len(recipes)} recipes")
    _console.table(COLUMNS, [cells_of(row) for row in recipes], right=COLUMNS[1:-1])


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]
