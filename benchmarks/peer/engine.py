"""The peers as `helium_edge.bench` engines: each asks a worker process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helium_edge.bench.cases import Case
from helium_edge.bench.engine import LineProcess

BENCHMARKS = Path(__file__).resolve().parents[1]


class PeerError(Exception):
    """A peer is not installed, cannot load its file, or failed while it ran: the table names it as not run.

    Attributes:
        name: Of the engine.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name = name


@dataclass(frozen=True)
class Shape:
    """What is the same for all engines of a run.

    Attributes:
        threads: Threads of one operator.
        cache_len: Tokens that the context must hold.
        vocab_size: Tokens to draw from.
    """

    threads: int
    cache_len: int
    vocab_size: int


class PeerEngine(LineProcess):
    """A peer that was loaded in a process of its own; a `helium_edge.bench.engine.Engine`.

    Args:
        name: For the table.
        kind: Of `peer.engines.ENGINES`.
        path: The file or folder that it loads.
        shape: What it must fit.
        python: Interpreter of the environment that the peer is installed in.

    Raises:
        PeerError: Here and from every request.

    Attributes:
        ready: `version`, `load_seconds` and `memory` after loading.
    """

    def __init__(self, name: str, kind: str, path: Path, shape: Shape, python: str = sys.executable) -> None:
        self.name = name
        command = [python, "-m", "peer.worker", kind, str(path)]
        command += ["--threads", str(shape.threads), "--cache-len", str(shape.cache_len)]
        command += ["--vocab-size", str(shape.vocab_size)]
        super().__init__(command, worker_environment(os.environ, shape.threads), stderr=subprocess.DEVNULL)
        try:
            self.ready = self._answer()
        except PeerError:
            self.close()
            raise

    def sample(self, case: Case) -> float:
        """Seconds of a decode step or of a prompt."""
        answer = self.ask(case.phase, context=case.context, tokens=case.tokens)
        return float(answer["ns"]) / 1e9 / case.units

    def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self.send({"op": op, **arguments})
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        found = self.receive()
        if found is None:
            code = self.exit_code()
            raise PeerError(self.name, f"ended by signal {-code}" if code < 0 else f"ended with code {code}")
        if "error" in found:
            raise PeerError(self.name, found["error"])
        return found


def worker_environment(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """Environment of a worker: threads for all libraries that look there, and nothing from a hub."""
    return {
        **environment,
        "PYTHONPATH": str(BENCHMARKS),
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONUNBUFFERED": "1",  # so that an error is the last line of a log
    }
