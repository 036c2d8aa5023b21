"""Runs the Python hosts over graphs that compute nothing, to record which calls they make and what they write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from helium_edge.errors import CacheFullError, UsageError
from helium_edge.runtime.chunked_runner import ChunkedRunner
from helium_edge.runtime.chunks import DECODE
from helium_edge.runtime.executorch_runner import ExecutorchRunner, _Buffers
from helium_edge.runtime.onnx_runner import OnnxRunner
from helium_edge.signature import CacheSpec, DecoderSpec

VOCAB = 50


def plans() -> Iterator[dict[str, Any]]:
    """The calls for prompts of many lengths at many positions, or the name of the refusal."""
    shapes = (
        ([1], 4), ([4], 4), ([4], 10), ([8], 20), ([16], 48), ([128], 1024),
        ([2, 4], 4), ([2, 3, 8], 20), ([8, 32, 128], 200),
    )  # fmt: skip
    for widths, cache_len in shapes:
        ends = [*widths, cache_len]
        lengths = {
            0, 1, 2, 2 * widths[-1] + 3, *(end + more for end in ends for more in (-1, 0, 1)),
            *(width // 2 + more for width in widths for more in (-1, 0, 1)), widths[0] + widths[-1],
        }  # fmt: skip
        places = {0, 1, *widths, cache_len - 1, cache_len}
        places |= {cache_len - width + more for width in widths for more in (0, 1)}
        for position in sorted(place for place in places if 0 <= place <= cache_len):
            for count in sorted(length for length in lengths if length >= 0):
                for dynamic in (False, True) if len(widths) == 1 else (False,):
                    case = {"widths": widths, "cache_len": cache_len, "position": position, "count": count}
                    yield {**case, "dynamic": dynamic, "calls": planned(**case, dynamic=dynamic)}


def planned(widths: list[int], cache_len: int, position: int, count: int, dynamic: bool) -> Any:
    """Phase, real tokens and width of each call, or the name of the refusal."""
    calls: list[list[Any]] = []

    def record(width: int, tokens: Sequence[int]) -> Any:
        phase = "any" if dynamic else "decode" if width == DECODE else "prefill"
        calls.append([phase, len(tokens), width])
        return np.zeros((1, VOCAB), np.float32)

    runner = (
        static_runner(widths[0], cache_len, dynamic) if len(widths) == 1 else several_widths(widths, cache_len)
    )
    runner._run = record
    runner._position = position
    try:
        runner.prefill([5] * count)
    except CacheFullError:
        return "cache_full"
    except UsageError:
        return "no_tokens"
    return calls


def static_runner(prefill_len: int, cache_len: int, dynamic: bool) -> Any:
    """An ONNX host of one width."""
    runner = object.__new__(OnnxRunner)
    ChunkedRunner.__init__(runner, VOCAB, cache_len, "last")
    runner._prefill_len, runner._dynamic = prefill_len, dynamic
    return runner


def several_widths(widths: list[int], cache_len: int) -> Any:
    """An ExecuTorch host whose methods are their widths."""
    runner = object.__new__(ExecutorchRunner)
    ChunkedRunner.__init__(runner, VOCAB, cache_len, "last")
    runner._widths = widths
    return runner


def cache_runs() -> Iterator[dict[str, Any]]:
    """Conversations with the contents of the cache that every call of a graph sees, and the one at the end."""
    for batched in (True, False):
        for operations in ([5, -1, -1, 3], [1, -1], [12, -1, -1, -1], [4, 4, 4, -1], [14, -1, -1]):
            yield onnx_run(batched, operations)
    for buckets, widths in (([], [4]), ([4], [2, 4]), ([4, 8], [4]), ([3, 5, 9], [2, 3, 6])):
        for operations in (
            [2, -1, -1, -1, -1, -1, -1],
            [1, -1, -1, 4, -1, -1],
            [6, -1, -1, -1, -1, -1, -1, -1],
            [13, -1, -1],
            [2, -1, -1, 0, 3, -1],
            # Through every cache to the full one, and back to the shortest, which is made anew.
            [2, *[-1] * 8, 0, 1, -1, -1, -1],
        ):
            yield executorch_run(buckets, widths, operations)
    for buckets, prefill_buckets, widths in (
        ([], [8], [4]), ([4, 8], [6, 10], [2, 4]), ([4, 8], [8], [2, 4]), ([3, 5, 9], [2, 7, 12], [2, 3, 6]),
    ):  # fmt: skip
        for operations in (
            [2, -1, -1, 2, -1, -1, -1, 3, -1, -1],
            [3, 3, 3, 3, 3],
            [6, -1, 2, -1, 0, 2, 4, -1, -1, 5],
            [14, -1, 0, 5, -1, 0, 1, 4, -1],
        ):
            yield executorch_run(buckets, widths, operations, prefill_buckets)


def rows_of(call: int, spec: CacheSpec, width: int) -> list[Any]:
    """New rows that tell call, buffer, head, row and element apart."""
    shape = (spec.num_key_value_heads, width, spec.head_dim)
    count = int(np.prod(shape))
    return [
        (1000 * call + 100 * index + np.arange(count, dtype=np.float32)).reshape(shape)
        for index in range(2 * spec.layers)
    ]


class Recording:
    """Stands for a step or method: records what it is given and returns rows that tell calls apart."""

    def __init__(self, log: list[Any], spec: CacheSpec, name: str, width: int) -> None:
        self._log, self._spec, self._name, self._width = log, spec, name, width
        self.logits = np.zeros((1, 1, VOCAB), np.float32)

    def record(self, tokens: Sequence[int], position: int, arrays: Sequence[Any]) -> list[Any]:
        ids = [*tokens, *[tokens[-1]] * (self._width - len(tokens))]
        seen = [array.reshape(-1).astype(int).tolist() for array in arrays]
        self._log.append(
            {"graph": self._name, "ids": ids, "position": position, "last_index": len(tokens) - 1, "cache": seen}
        )
        return rows_of(len(self._log), self._spec, self._width)


class OnnxStep(Recording):
    """In place of an ONNX step."""

    new_rows: list[Any]
    arrays: list[Any]

    def set_inputs(self, tokens: Sequence[int], position: int) -> None:
        self._tokens, self._position = list(tokens), position

    def run(self) -> None:
        self.new_rows = self.record(self._tokens, self._position, self.arrays)


class Method(Recording):
    """In place of an ExecuTorch method."""

    def __call__(self, tokens: Sequence[int], position: int, cache: Any) -> tuple[Any, list[Any]]:
        rows = self.record(tokens, position, cache.arrays)
        return self.logits, rows


def onnx_run(batched: bool, operations: list[int]) -> dict[str, Any]:
    spec = CacheSpec(layers=2, num_key_value_heads=2, cache_len=16, head_dim=3, update="append", batched=batched)
    log: list[Any] = []
    runner = object.__new__(OnnxRunner)
    ChunkedRunner.__init__(runner, VOCAB, 16, "last")
    runner._cache, runner._prefill_len, runner._dynamic, runner._sessions = spec, 4, False, {}
    runner._buffers = [np.zeros(spec.shape, np.float32) for _ in range(4)]
    steps = {
        ("prefill", 4, 1): OnnxStep(log, spec, "prefill_4", 4),
        ("decode", 1, 1): OnnxStep(log, spec, "decode_16", 1),
    }
    for step in steps.values():
        step.arrays = runner._buffers
    runner._steps = steps  # type: ignore[assignment]
    drive(runner, operations)
    shape = {"batched": batched, "buckets": [], "widths": [4], "prefill_buckets": []}
    return described(shape, operations, log, runner._buffers)


def executorch_run(
    buckets: list[int], widths: list[int], operations: list[int], prefill_buckets: Sequence[int] = ()
) -> dict[str, Any]:
    spec = CacheSpec(layers=2, num_key_value_heads=2, cache_len=16, head_dim=3, update="append", batched=False)
    log: list[Any] = []
    runner = object.__new__(ExecutorchRunner)
    ChunkedRunner.__init__(runner, VOCAB, 16, "last")
    runner._spec, runner._synced, runner._bucket = DecoderSpec(VOCAB, spec, widths[-1]), 0, None
    runner._full = _Buffers(runner._spec, 16)
    runner._widths = widths
    methods: dict[int, dict[int, Any]] = {
        width: {
            slots: Method(log, spec, f"prefill_{width}" if slots == 16 else f"prefill_{width}_{slots}", width)
            for slots in [*prefill_buckets, 16]
            if slots >= width
        }
        for width in widths
    }
    methods[DECODE] = {slots: Method(log, spec, f"decode_{slots}", 1) for slots in [*buckets, 16]}
    runner._methods = methods
    drive(runner, operations)
    shape = {"batched": False, "buckets": buckets, "widths": widths, "prefill_buckets": list(prefill_buckets)}
    return described(shape, operations, log, runner._full.arrays)


def drive(runner: Any, operations: list[int]) -> None:
    """Above 0: prefill that many tokens; -1: decode one; 0: start anew. Tokens count up from 1."""
    token = 1
    for operation in operations:
        if operation == 0:
            runner.reset()
        elif operation < 0:
            runner.decode(token % VOCAB)
            token += 1
        else:
            runner.prefill([(token + index) % VOCAB for index in range(operation)])
            token += operation


def described(
    shape: dict[str, Any], operations: list[int], log: list[Any], arrays: Sequence[Any]
) -> dict[str, Any]:
    final = [array.reshape(-1).astype(int).tolist() for array in arrays]
    return {**shape, "operations": operations, "calls": log, "final": final}
