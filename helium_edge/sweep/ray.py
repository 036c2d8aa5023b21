"""The engine of several machines: the same cells as tasks of a Ray cluster, which keeps nothing.

Ray's object store and its list of tasks end with the driver; results are files in the store, which every machine
must see under the same path.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helium_edge.documents import first_line
from helium_edge.errors import HeliumEdgeError, MissingDependencyError, ResourceError
from helium_edge.progress import SILENT, Progress
from helium_edge.sweep.cells import Cell, CellStore
from helium_edge.sweep.local import TRIES, Outcome, refused
from helium_edge.sweep.work import tell_cell

START_SECONDS = 600
"""How long Ray's own processes may take to start: its 15 seconds are too few on a small, busy machine."""

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_agent_register_timeout_ms": str(1000 * START_SECONDS),
    "RAY_raylet_start_wait_time_s": str(START_SECONDS),
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Of a Ray that is started here; those that the user has set stay."""


def require_ray() -> None:
    """Refuse early where Ray is not installed; it reads its settings when it is imported, which is not yet.

    Raises:
        MissingDependencyError: It is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise MissingDependencyError("ray", extra="sweep", purpose="--engine ray")


def run_ray(
    cells: Sequence[Cell],
    store: CellStore,
    *,
    address: str | None = None,
    threads: int = 1,
    progress: Progress = SILENT,
) -> list[Outcome]:
    """Do all cells that are not done.

    Args:
        cells: Those that others need come first.
        store: Where results appear, on a path that all machines share.
        address: Of a cluster, as of `ray start`; None starts one on this machine, which ends with the sweep.
        threads: Processors of a cell.
        progress: Receives a unit for each cell.

    Returns:
        Cells that failed, and those that needed them.

    Raises:
        MissingDependencyError: Ray is not installed.
        ResourceError: It cannot be started, or the cluster not be reached.
    """
    require_ray()
    with tempfile.TemporaryDirectory(prefix="helium-edge-") as private:
        if address is None:
            _prepare(Path(private))
        return _with_ray(cells, store, address, threads, progress)


def _prepare(private: Path) -> None:
    """Settings of a Ray that is started here, and a token of its own: else it writes one to the home folder."""
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if not {"RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        token = private / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="ascii")
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def _with_ray(
    cells: Sequence[Cell], store: CellStore, address: str | None, threads: int, progress: Progress
) -> list[Outcome]:
    import ray

    try:
        if address is None:
            ray.init(include_dashboard=False, log_to_driver=False)
        else:
            ray.init(address=address, log_to_driver=False)
    except Exception as error:  # Ray raises several unrelated types
        raise ResourceError(
            f"{'Ray cannot be started' if address is None else f'no Ray at {address}'}: {first_line(error)}",
            hint="docs/sweep.md tells how; --engine local needs none",
        ) from error
    try:
        return _run(ray, cells, store, threads, progress)
    finally:
        ray.shutdown()


def _run(ray: Any, cells: Sequence[Cell], store: CellStore, threads: int, progress: Progress) -> list[Outcome]:
    # A process a cell, as on one machine: runtimes have one thread pool in a process.
    work = ray.remote(max_calls=1, max_retries=TRIES - 1)(tell_cell)
    waiting = [cell for cell in cells if store.result(cell) is None]
    running: dict[Any, Cell] = {}
    failed: list[Outcome] = []
    while waiting or running:
        broken = {outcome.cell.key for outcome in failed}
        pending = {cell.key for cell in (*waiting, *running.values())}
        for cell in list(waiting):
            if broken.intersection(cell.needs):
                waiting.remove(cell)
                failed.append(Outcome(cell, HeliumEdgeError(f"{cell.name}: a cell that it needs failed")))
            elif not pending.intersection(cell.needs) and _may_start(cell, running.values()):
                waiting.remove(cell)
                options = work.options(num_cpus=max(1, threads), memory=cell.memory, name=cell.name)
                running[options.remote(cell.to_json(), str(store.folder.absolute()))] = cell
        if not running:
            continue
        (ended,), _ = ray.wait(list(running), num_returns=1)
        cell = running.pop(ended)
        try:
            found = ray.get(ended)
        except Exception as error:  # the worker died too often, or a bug of ours
            failed.append(Outcome(cell, HeliumEdgeError(f"{cell.name}: {first_line(error)}")))
        else:
            if "error" in found:
                failed.append(refused(cell, found["error"]))
        progress.advance(note=cell.name)
    return failed


def _may_start(cell: Cell, running: Any) -> bool:
    """Speed is measured when nothing else runs, on any machine: which one it will be on is Ray's to choose."""
    others = list(running)
    return not any(each.alone for each in others) and not (cell.alone and others)
