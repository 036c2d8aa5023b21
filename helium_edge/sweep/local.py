"""The engine of one machine: a process a cell, as many at a time as processors and memory allow.

A worker that dies takes its cell with it and no other; the cell is tried again, since a kill for memory may not
come twice.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from helium_edge.errors import HeliumEdgeError
from helium_edge.progress import SILENT, Progress
from helium_edge.sweep.cells import Cell, CellStore

WORKER = ["-m", "helium_edge.sweep.work"]
"""What Python runs for a cell, with the store as its argument."""

WAIT_SECONDS = 0.05
"""Between two looks at whether a worker has ended."""

TRIES = 3
"""Times that a cell is started before it is given up."""


@dataclass
class Outcome:
    """What became of a cell that did not succeed.

    Attributes:
        cell: The cell.
        error: Why.
    """

    cell: Cell
    error: HeliumEdgeError


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen[bytes]
    answer: IO[bytes]
    noise: IO[bytes]
    tries: int


def run_local(
    cells: Sequence[Cell],
    store: CellStore,
    *,
    jobs: int = 0,
    memory: int = 0,
    threads: int = 1,
    progress: Progress = SILENT,
) -> list[Outcome]:
    """Do all cells that are not done.

    Args:
        cells: Those that others need come first.
        store: Where results appear.
        jobs: Most workers at a time; 0 is as many as there are processors for them.
        memory: Bytes that workers may take together; 0 is what the system has free.
        threads: Processors of a worker.
        progress: Receives a unit for each cell.

    Returns:
        Cells that failed, and those that needed them.
    """
    state = _State(cells, store, jobs or max(1, (os.cpu_count() or 1) // max(1, threads)), memory or free_memory())
    try:
        while state.waiting or state.running:
            state.start(threads)
            for ended in state.wait():
                progress.advance(note=ended.name)
    finally:
        for each in state.running:
            each.process.kill()
            each.process.wait()
    return state.failed


class _State:
    def __init__(self, cells: Sequence[Cell], store: CellStore, jobs: int, memory: int) -> None:
        self.waiting = [(cell, 0) for cell in cells if store.result(cell) is None]
        self.running: list[_Running] = []
        self.failed: list[Outcome] = []
        self._store = store
        self._jobs = jobs
        self._memory = memory

    def start(self, threads: int) -> None:
        """Start what may run now."""
        broken = {outcome.cell.key for outcome in self.failed}
        pending = {cell.key for cell, _ in self.waiting} | {each.cell.key for each in self.running}
        for cell, tries in list(self.waiting):
            if broken.intersection(cell.needs):
                self.waiting.remove((cell, tries))
                self.failed.append(Outcome(cell, HeliumEdgeError(f"{cell.name}: a cell that it needs failed")))
                continue
            if pending.intersection(cell.needs) or not self._fits(cell):
                continue
            self.waiting.remove((cell, tries))
            self.running.append(_spawn(cell, self._store.folder, threads, tries + 1))

    def _fits(self, cell: Cell) -> bool:
        if not self.running:
            return True  # the only one may try with more memory than there seems to be
        if cell.alone or any(each.cell.alone for each in self.running):
            return False
        taken = sum(each.cell.memory for each in self.running)
        return len(self.running) < self._jobs and taken + cell.memory <= self._memory

    def wait(self) -> list[Cell]:
        """Wait until a worker ends; cells that are done, one way or the other."""
        if not self.running:
            return []
        while all(each.process.poll() is None for each in self.running):
            time.sleep(WAIT_SECONDS)
        ended = []
        for each in [each for each in self.running if each.process.poll() is not None]:
            self.running.remove(each)
            if self._settle(each):
                ended.append(each.cell)
        return ended

    def _settle(self, worker: _Running) -> bool:
        with worker.answer, worker.noise:
            worker.answer.seek(0)
            worker.noise.seek(0)
            answer, noise = worker.answer.read(), worker.noise.read()
        try:
            found = json.loads(answer.splitlines()[-1])
        except (IndexError, ValueError):
            found = {}
        if "done" in found and self._store.result(worker.cell) is not None:
            return True
        if "error" in found:
            self.failed.append(refused(worker.cell, found["error"]))
            return True
        if worker.tries < TRIES:
            self.waiting.insert(0, (worker.cell, worker.tries))
            return False
        last = noise.decode("utf-8", "replace").strip().splitlines()[-1:] or [""]
        code = worker.process.returncode
        message = f"{worker.cell.name}: its worker died {TRIES} times, with {code} at last: {last[0][:200]}"
        self.failed.append(Outcome(worker.cell, HeliumEdgeError(message, hint="fewer --jobs need less memory")))
        return True


def refused(cell: Cell, told: Mapping[str, Any]) -> Outcome:
    """A cell whose worker said why it cannot be done."""
    error = HeliumEdgeError(f"{cell.name}: {told['message']}", hint=str(told["hint"]))
    error.exit_code = int(told["exit_code"])
    return Outcome(cell, error)


def _spawn(cell: Cell, folder: Path, threads: int, tries: int) -> _Running:
    answer, noise = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - closed when it ends
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    process = subprocess.Popen(
        [sys.executable, *WORKER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=answer,
        stderr=noise,
        env=environment,
    )
    assert process.stdin is not None
    try:
        process.stdin.write(json.dumps(cell.to_json()).encode("utf-8"))
        process.stdin.close()
    except BrokenPipeError:  # it died at once, which is seen when it is waited for
        pass
    return _Running(cell, process, answer, noise, tries)


def free_memory() -> int:
    """Bytes that the system could give; where it does not tell, as much as anybody could want."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return 1 << 60
