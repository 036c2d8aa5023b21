"""One peer in a process of its own: a request a line on stdin, an answer a line on stdout, both JSON.

    python -m peer.worker KIND PATH --threads N --cache-len S --vocab-size V

Started by `peer.engine`, and the counterpart of `helium_edge.bench.worker`. Nothing of helium_edge is imported: a
peer may need an environment of its own. What a library prints goes to stderr.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from peer.engines import ENGINES, Engine, Logits


class Worker:
    """Answers requests about one engine; each method but `answer` is one."""

    def __init__(self, engine: Engine, vocab_size: int) -> None:
        self._engine = engine
        self._vocab_size = vocab_size

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a request: its `op` names a method, the rest are its arguments. An error is an answer too."""
        arguments = dict(request)
        try:
            found: dict[str, Any] = getattr(self, f"do_{arguments.pop('op')}")(**arguments)
        except Exception as error:  # whatever a library raises belongs to this peer alone
            return {"error": first_line(error)}
        return found

    def do_fill(self, context: int) -> dict[str, Any]:
        """Fill an empty context with that many tokens."""
        self._engine.seek(0)
        if context:
            self._engine.append(self._ids(context))
        return {}

    def do_decode(self, context: int, tokens: int) -> dict[str, Any]:
        """Time of some decode steps from a depth on, after one that is not counted."""
        ids = self._ids(tokens)
        self._engine.seek(context)
        self._engine.append(ids[:1])
        self._engine.seek(context)
        start = time.perf_counter_ns()
        for token in ids:
            logits = self._engine.append([token])
        return self._timed(start, logits)

    def do_prefill(self, context: int, tokens: int) -> dict[str, Any]:
        """Time from a prompt's ids to the choice of the first token after it."""
        ids = self._ids(tokens)
        self._engine.seek(context)
        start = time.perf_counter_ns()
        logits = self._engine.append(ids)
        logits.argmax()
        return self._timed(start, logits)

    def do_logits(self, prompt: Sequence[int], then: Sequence[int]) -> dict[str, Any]:
        """Logits after a prompt, and after each of the tokens that follow it; the last one again after a seek."""
        self._engine.seek(0)
        rows = [self._engine.append(prompt), *(self._engine.append([token]) for token in then)]
        self._engine.seek(len(prompt) + len(then) - 1)
        rows.append(self._engine.append(then[-1:]))
        return {"logits": [[float(value) for value in row] for row in rows]}

    def do_memory(self) -> dict[str, Any]:
        """Memory of this process."""
        return {"memory": memory()}

    @staticmethod
    def _timed(start: int, logits: Logits) -> dict[str, Any]:
        elapsed = time.perf_counter_ns() - start
        if abs(float(logits.sum())) == float("inf") or logits.sum() != logits.sum():
            raise ValueError("logits are not finite")
        return {"ns": elapsed}

    def _ids(self, count: int) -> list[int]:
        """The ids of `helium_edge.bench`, all over the vocabulary, without the special ones at its beginning."""
        first = min(4, self._vocab_size - 1)
        return [first + index * 7919 % (self._vocab_size - first) for index in range(count)]


def memory() -> dict[str, int]:
    """As `helium_edge.bench.machine.process_memory`; empty where /proc is missing."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return {}
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if line.endswith(" kB")}
    names = {"anonymous_bytes": "RssAnon", "mapped_bytes": "RssFile", "peak_bytes": "VmHWM"}
    return {name: found[key] for name, key in names.items() if key in found}


def first_line(error: BaseException) -> str:
    """An error in one line of a table."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"[:200]


def serve(worker: Worker, requests: TextIO, answers: TextIO) -> None:
    """Answer until there are no more requests."""
    for line in requests:
        print(json.dumps(worker.answer(json.loads(line))), file=answers, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=ENGINES)
    parser.add_argument("path", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--cache-len", type=int, required=True)
    parser.add_argument("--vocab-size", type=int, required=True)
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    start = time.perf_counter()
    try:
        engine = ENGINES[given.kind](given.path, given.threads, given.cache_len)
    except Exception as error:  # a peer that is missing or unwilling is named in the table, it stops nothing
        print(json.dumps({"error": first_line(error)}), file=answers, flush=True)
        return
    ready = {"version": engine.version, "load_seconds": time.perf_counter() - start, "memory": memory()}
    print(json.dumps(ready), file=answers, flush=True)
    gc.collect()
    gc.freeze()
    gc.disable()
    serve(Worker(engine, given.vocab_size), sys.stdin, answers)


if __name__ == "__main__":
    main()
