"""Running the command line as users do, and inside this process."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from helium_edge.cli.main import app

REPOSITORY = Path(__file__).parents[3]


def _below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from _below(inner, (*path, name))


COMMANDS = tuple(_below(typer.main.get_command(app), ()))
"""Every command; the empty one is the program itself."""


def clean_environment(**changes: str) -> dict[str, str]:
    """The environment without what changes how output looks."""
    dropped = {"COLUMNS", "NO_COLOR", "FORCE_COLOR", "HELIUM_EDGE_DEBUG", "PYTHONIOENCODING", "PYTHONUNBUFFERED"}
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "OMP_NUM_THREADS": "2", **changes}


def start(*arguments: str, cwd: Path = REPOSITORY, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, its output captured as through pipes."""
    return subprocess.run(
        [sys.executable, "-m", "helium_edge.cli.main", *arguments],
        env=clean_environment(**environment),
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
        stdin=subprocess.DEVNULL,
    )


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True
