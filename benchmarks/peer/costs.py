"""What exporting costs: time, processor time, memory and disk of each exporter, a process each."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        wall_seconds: From its start to its end; others may have had a share of the processors.
        cpu_seconds: User and system time of it and its children.
        resident_bytes: The most that one process had resident, pages of mapped files included.
        anonymous_bytes: The most that all had together without these, looked at every 50 ms; None without /proc.
        written_bytes: Size of what it made.
    """

    wall_seconds: float
    cpu_seconds: float
    resident_bytes: int
    anonymous_bytes: int | None
    written_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class CommandFailed(Exception):  # noqa: N818 - what happened, not what is wrong
    """The exporter ended with an error; the message is its last line."""


def run_command(command: Sequence[str], output: Path, environment: Mapping[str, str], log: Path) -> Cost:
    """Run an exporter to its end.

    Raises:
        CommandFailed: It failed, or could not be started.
    """
    started = time.perf_counter()
    with log.open("wb") as stream:
        try:
            process = subprocess.Popen(
                command, env=dict(environment), stdout=stream, stderr=stream, start_new_session=True
            )
        except OSError as error:
            raise CommandFailed(f"{command[0]}: {error.strerror}") from error
        peak = [0]
        done = threading.Event()
        watcher = threading.Thread(target=_watch, args=(process.pid, done, peak))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        done.set()
        watcher.join()
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    if process.returncode != 0:
        raise CommandFailed(_last_line(log) or f"ended with code {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(
        wall_seconds=wall,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        resident_bytes=usage.ru_maxrss * unit,
        anonymous_bytes=peak[0] or None,
        written_bytes=size_of(output),
    )


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(found.stat().st_size for found in path.rglob("*") if found.is_file())
    return path.stat().st_size


def _watch(group: int, done: threading.Event, peak: list[int]) -> None:
    while not done.wait(POLL_SECONDS):
        peak[0] = max(peak[0], _anonymous(group))


def _anonymous(group: int) -> int:
    """Anonymous memory of all processes of a group, in bytes."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            if int(stat[stat.rindex(")") + 2 :].split()[2]) != group:
                continue
            status = (folder / "status").read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError):
            continue  # it ended meanwhile
        lines = [line for line in status.splitlines() if line.startswith("RssAnon:")]
        total += sum(int(line.split()[1]) * 1024 for line in lines)
    return total


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else ""
