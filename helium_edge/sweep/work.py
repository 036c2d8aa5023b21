"""The work of one cell, in whatever process an engine gives it.

python -m helium_edge.sweep.work STORE    a cell as JSON on stdin; an error of ours as JSON on stdout
"""

from __future__ import annotations

import ctypes
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from helium_edge.bundle import manifest_hash, open_bundle
from helium_edge.errors import EXIT_OK, HeliumEdgeError
from helium_edge.evaluate.plan import plan
from helium_edge.evaluate.run import answer_task
from helium_edge.evaluate.store import AnswerStore
from helium_edge.evaluate.subjects import bundle_subject, original_subject
from helium_edge.sweep.cells import Cell, CellStore, Kind


def run_cell(data: Mapping[str, Any], store: str) -> str:
    """Do a cell, unless it is done, and publish its result.

    Args:
        data: `Cell.to_json`.
        store: Folder.

    Returns:
        "known" or "computed".

    Raises:
        HeliumEdgeError: The work cannot be done; another try would fail as well.
    """
    cell, cells = Cell.from_json(data), CellStore(Path(store))
    if cells.result(cell) is not None:
        return "known"
    cells.tell(cell, "started")
    result = _WORK[cell.kind](cell, cells)
    cells.publish(cell, result)
    cells.tell(cell, "published")
    return "computed"


def tell_cell(data: Mapping[str, Any], store: str) -> dict[str, Any]:
    """Do a cell as `run_cell` does, and say what came of it as plain data, which every engine can carry.

    Returns:
        `done`, or `error` with `message`, `hint` and `exit_code`.
    """
    try:
        return {"done": run_cell(data, store)}
    except HeliumEdgeError as error:
        return {"error": {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}}


def _export(cell: Cell, store: CellStore) -> dict[str, Any]:
    from helium_edge.exporting import ExportRequest, export_all
    from helium_edge.recipe import Recipe

    out = store.bundle(cell)
    out.parent.mkdir(parents=True, exist_ok=True)
    if not out.exists():  # else another worker published it, and died before it said so
        recipe = Recipe.model_validate_json(str(cell.spec["recipe"]))
        source = str(cell.place["source"])
        export_all(ExportRequest(source, recipe, out, parity=False, threads=int(cell.place["threads"])))
    bundle = open_bundle(out)
    return {
        "bundle": out.name,
        "manifest_sha256": manifest_hash(bundle),
        "bytes": sum(entry.bytes for entry in bundle.manifest.files),
    }


def _artifact(cell: Cell, store: CellStore) -> dict[str, Any]:
    bundle = open_bundle(store.bundle(cell))
    return _ask(cell, store, bundle_subject(bundle, threads=int(cell.place["threads"])))


def _original(cell: Cell, store: CellStore) -> dict[str, Any]:
    bundle = open_bundle(store.bundle(cell))
    subject = original_subject(bundle, str(cell.place["source"]), threads=int(cell.place["threads"]))
    return _ask(cell, store, subject)


def _ask(cell: Cell, store: CellStore, subject: Any) -> dict[str, Any]:
    place = cell.place
    folder = None if place["data"] is None else Path(str(place["data"]))
    (task,) = plan([str(place["word"])], folder, int(place["limit"]))
    judged = answer_task(subject, task, AnswerStore(store.folder))
    return {"n": len(task.items), "values": {each.metric: each.value for each in judged}, "work": subject.counts}


def _parity(cell: Cell, store: CellStore) -> dict[str, Any]:
    from helium_edge.parity.check import check

    source = str(cell.place["source"])
    report = check(store.bundle(cell), checkpoint=source, threads=int(cell.place["threads"]))
    return report.to_json()


def _speed(cell: Cell, store: CellStore) -> dict[str, Any]:
    from helium_edge.bench import Settings, run_bench
    from helium_edge.progress import SILENT

    settings = Settings(threads=int(cell.place["threads"]), contexts=(0,), repeats=5, loads=1)
    return run_bench([open_bundle(store.bundle(cell))], settings, SILENT).to_json()


_WORK: Mapping[Kind, Callable[[Cell, CellStore], dict[str, Any]]] = {
    "export": _export,
    "artifact": _artifact,
    "original": _original,
    "parity": _parity,
    "speed": _speed,
}


def main() -> int:
    """Do the cell on stdin."""
    _end_with_the_driver()
    answer = tell_cell(json.load(sys.stdin), sys.argv[1])
    print(json.dumps(answer))  # noqa: T201 - to the driver
    return EXIT_OK


def _end_with_the_driver() -> None:
    """Die when the process that started this one does, so that a new driver finds the memory free."""
    if sys.platform.startswith("linux"):
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
