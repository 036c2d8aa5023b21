"""The process that runs one bundle: it reads a request a line on stdin, and answers with a line on stdout.

A process of its own makes memory and the time to load those of the bundle and of nothing else, and lets two
bundles be compared without one in the other's way. What libraries print on stdout goes to stderr.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from helium_edge.bench import machine
from helium_edge.bench.cases import first_positions
from helium_edge.bundle import Bundle, open_bundle
from helium_edge.errors import BundleError, HeliumEdgeError, UsageError
from helium_edge.generation import LanguageModel, open_model
from helium_edge.runtime.runner import SeekableRunner
from helium_edge.runtime.text_runner import TextRunner
from helium_edge.targets.loading import target_of

_TILE = 1 << 20


class Worker:
    """Answers requests; each method but `answer` is one."""

    def __init__(self) -> None:
        self._bundle: Bundle | None = None
        self._runner: SeekableRunner | None = None
        self._text: TextRunner | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Run a request: its `op` names a method, the rest are its arguments."""
        arguments = dict(request)
        method: Callable[..., dict[str, Any]] = getattr(self, f"do_{arguments.pop('op')}")
        try:
            return method(**arguments)
        except HeliumEdgeError as error:
            details = {"type": type(error).__name__, "message": error.message, "hint": error.hint}
            return {"error": details}

    def do_load(self, bundle: str, threads: int, static: bool) -> dict[str, Any]:
        """Load the graphs of a bundle; its checksums are not looked at again."""
        opened = open_bundle(Path(bundle), unverified=True)
        target_of(opened).load_runtime()
        before = machine.process_memory()
        start = time.perf_counter_ns()
        model = open_model(opened, threads=threads, static=static)
        if isinstance(model, LanguageModel):
            if not isinstance(model.runner, SeekableRunner):
                raise UsageError(f"{bundle}: bundles for {opened.manifest.target.name} cannot be timed")
            self._runner = model.runner
        else:
            self._text = model.runner
        elapsed = time.perf_counter_ns() - start
        self._bundle = opened
        gc.collect()
        gc.freeze()
        return {"ns": elapsed, "before": before, "after": machine.process_memory()}

    def do_first(self) -> dict[str, Any]:
        """The first call after loading, timed, and then one of every other graph."""
        assert self._bundle is not None
        manifest = self._bundle.manifest
        if self._runner is None:
            return {"ns": self.do_classify(0, manifest.prefill_len)["ns"], "memory": machine.process_memory()}
        elapsed = self.do_prefill(0, manifest.prefill_len)["ns"]
        for position in first_positions(manifest):
            self.do_decode(position, 1)
        return {"ns": elapsed, "memory": machine.process_memory()}

    def do_fill(self) -> dict[str, Any]:
        """Fill every slot of the cache: pages that were never written would be read from nowhere."""
        if self._runner is not None:
            for index, buffer in enumerate(self._runner.cache_buffers):
                _fill(buffer, seed=index)
        return {"memory": machine.process_memory()}

    def do_decode(self, context: int, tokens: int) -> dict[str, Any]:
        """Time of each of some decode steps from a depth on, after one that is not counted.

        That one wakes the threads and, where a graph has a cache of its own, moves it there.
        """
        runner = self._runner
        assert runner is not None
        ids = _ids(runner.vocab_size, tokens)
        runner.seek(context)
        runner.decode(ids[0])
        runner.seek(context)
        times = []
        for token in ids:
            start = time.perf_counter_ns()
            logits = runner.decode(token)
            times.append(time.perf_counter_ns() - start)
        _check(logits, context)
        return {"ns": sum(times), "steps_ns": times, "position": runner.position}

    def do_prefill(self, context: int, tokens: int) -> dict[str, Any]:
        """Time from a prompt's ids to the choice of the first token after it, at a depth."""
        runner = self._runner
        assert runner is not None
        ids = _ids(runner.vocab_size, tokens)
        runner.seek(context)
        start = time.perf_counter_ns()
        logits = runner.prefill(ids)
        logits[-1].argmax()
        elapsed = time.perf_counter_ns() - start
        _check(logits, context)
        return {"ns": elapsed, "position": runner.position}

    def do_classify(self, context: int, tokens: int) -> dict[str, Any]:
        """Time of one text."""
        text = self._text
        assert text is not None
        ids = _ids(text.signature.vocab_size, tokens)
        start = time.perf_counter_ns()
        output = text.run(ids)
        elapsed = time.perf_counter_ns() - start
        _check(output, context)
        return {"ns": elapsed, "position": 0}

    def do_memory(self) -> dict[str, Any]:
        """Memory of this process."""
        return {"memory": machine.process_memory()}


def _fill(buffer: np.ndarray[Any, Any], seed: int) -> None:
    """Random keys or values of a plausible size; speed does not depend on them, and a NaN would be seen."""
    rng = np.random.default_rng(seed)
    if np.issubdtype(buffer.dtype, np.integer):
        tile = rng.integers(-64, 64, _TILE).astype(buffer.dtype)
    else:
        tile = rng.standard_normal(_TILE, np.float32).astype(buffer.dtype)
    flat = buffer.reshape(-1)
    for start in range(0, len(flat), _TILE):
        piece = flat[start : start + _TILE]
        piece[:] = tile[: len(piece)]


def _ids(vocab_size: int, count: int) -> list[int]:
    """Fixed ids all over the vocabulary, without the special ones at its beginning."""
    first = min(4, vocab_size - 1)
    return [first + index * 7919 % (vocab_size - first) for index in range(count)]


def _check(logits: np.ndarray[Any, Any], context: int) -> None:
    if not np.isfinite(logits).all():
        raise BundleError(f"logits at context {context} are not finite", hint="`helium-edge parity` finds where")


def main() -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that asks decides what to do
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    gc.disable()
    worker = Worker()
    for line in sys.stdin:
        answers.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
