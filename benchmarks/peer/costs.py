"""What exporting costs: time, processor time, memory and disk of each exporter, a process each."""

from __future__ import annotations

import json
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
# A process starts with the peak of the one that forked it, so a small one stands between: it starts the command,
# waits, and writes what it took to a pipe. Its own some ten megabytes are the least that can be told.
_LAUNCHER = """
import json, os, subprocess, sys
pipe, command = int(sys.argv[1]), sys.argv[2:]
try:
    process = subprocess.Popen(command)
except OSError as error:
    os.write(pipe, json.dumps({"error": error.strerror}).encode())
    sys.exit(127)
_, status, usage = os.wait4(process.pid, 0)
cost = {"code": os.waitstatus_to_exitcode(status), "cpu": usage.ru_utime + usage.ru_stime, "peak": usage.ru_maxrss}
os.write(pipe, json.dumps(cost).encode())
"""


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
    told = _launch(command, environment, log)
    if "error" in told:
        raise CommandFailed(f"{command[0]}: {told['error']}")
    if told["code"] != 0:
        raise CommandFailed(_last_line(log) or f"ended with code {told['code']}")
    return Cost(
        wall_seconds=time.perf_counter() - started,
        cpu_seconds=told["cpu"],
        resident_bytes=told["peak"] * (1 if sys.platform == "darwin" else 1024),
        anonymous_bytes=told["anonymous"] or None,
        written_bytes=size_of(output),
    )


def _launch(command: Sequence[str], environment: Mapping[str, str], log: Path) -> dict[str, Any]:
    """What the launcher tells of the command, and the anonymous memory of its group."""
    read_end, write_end = os.pipe()
    launcher = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(write_end), *command]
    peak = [0]
    done = threading.Event()
    with log.open("wb") as stream, os.fdopen(read_end, "rb") as report:
        process = subprocess.Popen(
            launcher,
            env=dict(environment),
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            pass_fds=[write_end],
        )
        os.close(write_end)
        watcher = threading.Thread(target=_watch, args=(process.pid, done, peak))
        watcher.start()
        code = process.wait()
        done.set()
        watcher.join()
        text = report.read()  # the command does not inherit the pipe, so this ends
    return {**(json.loads(text) if text else {"code": code}), "anonymous": peak[0]}


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
