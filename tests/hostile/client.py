"""The other end of `server`: runs command lines in forks of a warm process and says how each one ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from typing_extensions import Self

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    signal: int
    timed_out: bool
    stdout: str
    stderr: str
    cpu_seconds: float
    base_bytes: int
    peak_bytes: int
    child_seconds: float = 0.0
    child_peak_bytes: int = 0
    operations: int = 0
    renames: Sequence[Sequence[str]] = ()
    struck: str = ""

    @property
    def error(self) -> str:
        """The line that tells of the error, and its hint."""
        lines = self.stderr.splitlines()
        start = next((number for number, line in enumerate(lines) if line.startswith("error: ")), len(lines))
        return "\n".join(lines[start:])

    def problems(self) -> list[str]:
        """What no command may do, whatever it is given."""
        found = []
        if self.timed_out:
            found.append("it hangs")
        elif self.signal:
            found.append(f"it died of signal {self.signal}")
        elif self.code not in (0, 2, 3, 4, 6):
            found.append(f"exit code {self.code}")
        if "Traceback" in self.stderr or "panicked" in self.stderr:
            found.append("a traceback")
        if self.code:
            lines = self.error.splitlines()
            if not lines or len(lines) > 2 or (len(lines) == 2 and not lines[1].startswith("hint: ")):
                found.append("not one line and a hint")
            if len(self.error) > 1000 or not self.error.replace("\n", "").isprintable():
                found.append("a message that is no readable line")
        return [f"{problem}: {self.stderr[-2000:]}" for problem in found]


class Commands:
    """A running server; a context manager."""

    def __init__(self) -> None:
        environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        self._folder = tempfile.TemporaryDirectory()
        self._log = open(Path(self._folder.name) / "log", "wb")  # noqa: SIM115 - closed with the server
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.hostile.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            cwd=REPOSITORY,
            env={**os.environ, **environment, "COLUMNS": "80"},
            text=True,
        )
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()
        self._log.close()
        self._folder.cleanup()

    def run(self, argv: list[str], cwd: Path, *, limit_seconds: float = 60.0, **settings: Any) -> Ending:
        """Run one command line in a folder."""
        request = {"argv": argv, "cwd": str(cwd), "limit_seconds": limit_seconds, **settings}
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return Ending(**self._read())

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(Path(self._log.name).read_text(encoding="utf-8", errors="replace")[-4000:])
        answer: dict[str, Any] = json.loads(line)
        return answer
