"""What can be timed: an `Engine`, and the one that asks a worker process with a bundle in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from typing_extensions import override

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


class LineProcess:
    """A process that answers each line of JSON with one; `close` ends it.

    Args:
        command: Program and arguments.
        environment: All of its environment.
        stderr: Of `subprocess.Popen`; None leaves it where this process's goes.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], *, stderr: int | None = None
    ) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=environment,
            text=True,
            encoding="utf-8",
        )

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, request: Mapping[str, Any]) -> None:
        """Send a request; a process that has ended is told by the answer that is missing."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any] | None:
        """Wait for a line; None when the process has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            return None
        answer: dict[str, Any] = json.loads(line)
        return answer

    def exit_code(self) -> int:
        """Wait for its end; negative is the signal that ended it."""
        return self._process.wait()

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                # A request that a dead process did not take is still buffered, and closing tries once more.
                with suppress(BrokenPipeError):
                    stream.close()


class WorkerProcess(LineProcess):
    """A worker process, and requests to it.

    Raises:
        HeliumEdgeError: From `ask`, whatever the worker raised.
        ResourceError: From `ask`, the system killed the worker, as it does when memory runs out.
    """

    def __init__(self) -> None:
        command = [sys.executable, "-m", "helium_edge.bench.worker"]
        super().__init__(command, {**os.environ, "PYTHONSAFEPATH": "1"})

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self.send({"op": op, **arguments})
        answer = self.receive()
        if answer is None:
            raise self._ended(op)
        if "error" in answer:
            raise _as_raised(answer["error"])
        return answer

    def _ended(self, op: str) -> HeliumEdgeError:
        code = self.exit_code()
        if code == -signal.SIGKILL:
            return ResourceError(
                f"the system killed the process that runs the bundle ({op}): memory ran out",
                hint="close other programs, or export with a smaller --cache-len",
            )
        return HeliumEdgeError(f"the process that runs the bundle ended with code {code} ({op})")


class BundleEngine(Engine):
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

    @override
    def sample(self, case: Case) -> float:
        answer = self.worker.ask(case.phase, context=case.context, tokens=case.tokens)
        return float(answer["ns"]) / 1e9 / case.units


def _as_raised(details: dict[str, str]) -> HeliumEdgeError:
    """The worker's error, of its own class."""
    kind = getattr(errors, details["type"], HeliumEdgeError)
    error: HeliumEdgeError = kind.__new__(kind)
    HeliumEdgeError.__init__(error, details["message"], hint=details["hint"])
    return error
