"""What can be timed: an `Engine`, and the one that asks a worker process with a bundle in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

from helium_edge import errors
from helium_edge.bench.cases import Case
from helium_edge.errors import HeliumEdgeError, ResourceError


class Engine(Protocol):
    """Something that runs cases and says how long they took.

    Attributes:
        name: For people.
    """

    name: str

    def sample(self, case: Case) -> float:
        """Run a case once.

        Returns:
            Seconds of a decode step, of a prompt, or of a text.
        """
        ...


class WorkerProcess:
    """A worker process, and requests to it; `close` ends it.

    Raises:
        HeliumEdgeError: From `ask`, whatever the worker raised.
        ResourceError: From `ask`, the system killed the worker, as it does when memory runs out.
    """

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helium_edge.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._ended(op)
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise _as_raised(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _ended(self, op: str) -> HeliumEdgeError:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return ResourceError(
                f"the system killed the process that runs the bundle ({op}): memory ran out",
                hint="close other programs, or export with a smaller --cache-len",
            )
        return HeliumEdgeError(f"the process that runs the bundle ended with code {code} ({op})")


class BundleEngine:
    """A bundle that was loaded in a process of its own.

    Args:
        name: For people.
        worker: The process; closed with the engine.
    """

    def __init__(self, name: str, worker: WorkerProcess) -> None:
        self.name = name
        self.worker = worker

    def load(self, folder: Path, *, threads: int, static: bool) -> dict[str, Any]:
        """Load a bundle; see `worker.Worker.do_load`."""
        return self.worker.ask("load", bundle=str(folder), threads=threads, static=static)

    def sample(self, case: Case) -> float:
        """See `Engine.sample`."""
        answer = self.worker.ask(case.phase, context=case.context, tokens=case.tokens)
        return float(answer["ns"]) / 1e9 / case.units


def _as_raised(details: dict[str, str]) -> HeliumEdgeError:
    """The worker's error, of its own class."""
    kind = getattr(errors, details["type"], HeliumEdgeError)
    error: HeliumEdgeError = kind.__new__(kind)
    HeliumEdgeError.__init__(error, details["message"], hint=details["hint"])
    return error
