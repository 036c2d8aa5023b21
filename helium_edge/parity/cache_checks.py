"""The cache contract on the real runtime: every pattern of calls that a host makes gives the same numbers.

Chunks, ragged tails, single tokens, a second conversation, a full cache, a change of bucket: whatever the calls,
each row is compared with the yardstick over the cache that the runtime has written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from helium_edge.errors import CacheFullError, HeliumEdgeError
from helium_edge.parity.document import CheckResult
from helium_edge.parity.rollout import decode_step, prefill_step
from helium_edge.parity.verdict import FLIPPED_CODE, GraphLimits
from helium_edge.parity.yardstick import Yardstick
from helium_edge.runtime.runner import CachedRunner

_STEPS = 4
"""Decode steps after each pattern, which read what it wrote."""


@dataclass(frozen=True)
class CacheChecks:
    """What the checks run on.

    Attributes:
        runner: The exported graphs.
        yardstick: What they must give.
        limits: How near.
        chunk: Tokens of the prefill graph.
        buckets: Cache lengths of the methods, ascending; the last is the full cache.
    """

    runner: CachedRunner
    yardstick: Yardstick
    limits: GraphLimits
    chunk: int
    buckets: Sequence[int]

    @property
    def count(self) -> int:
        """Checks that `run` will yield, about."""
        return 8 if len(self.buckets) > 1 else 7

    def run(self, tokens: Sequence[int]) -> Iterator[CheckResult]:
        """Run every check that applies, in order.

        Args:
            tokens: Ids to run, repeated as often as needed; the first is BOS.
        """
        full = self.runner.cache_len
        ids = _repeated(tokens, full)
        chunk = min(self.chunk, full // 2)
        tails = [length for length in (1, 2, chunk - 1, chunk, chunk + 1) if 1 <= length <= full - _STEPS]
        yield self._pattern("token by token", ids, [[1] * min(2 * _STEPS, full)])
        yield self._pattern("ragged tails", ids, [[length, *[1] * _STEPS] for length in sorted(set(tails))])
        chunked = [length for length in (chunk, chunk, max(1, chunk // 3), 2) if length]
        if sum(chunked) + _STEPS <= full:
            yield self._pattern("chunked prefill", ids, [[*chunked, *[1] * _STEPS]])
        yield self._guard(
            "prefill equals decode", lambda: self._prefill_equals_decode(ids[: min(chunk + 3, full)])
        )
        yield self._guard("second conversation", lambda: self._second_conversation(ids[: min(chunk + 5, full)]))
        yield self._guard("own slots only", lambda: self._own_slots(ids[: min(chunk + 2, full)]))
        if len(self.buckets) > 1:
            yield self._guard("bucket changes", lambda: self._buckets(ids))
        yield self._guard("full cache", lambda: self._full_cache(ids))

    def _guard(self, name: str, check: Callable[[], CheckResult]) -> CheckResult:
        try:
            return check()
        except HeliumEdgeError as error:
            return CheckResult(name, float("inf"), None, passed=False, detail=f"stopped: {error.message}")

    def _pattern(self, name: str, ids: Sequence[int], conversations: Sequence[Sequence[int]]) -> CheckResult:
        def check() -> CheckResult:
            errors: list[npt.NDArray[np.float64]] = []
            places: list[str] = []
            for calls in conversations:
                self.runner.reset()
                errors += [self._call(ids, length) for length in calls]
                places += [f"call of {length} in {_spell(calls)}" for length in calls]
            return self._verdict(name, errors, places)

        return self._guard(name, check)

    def _call(self, ids: Sequence[int], length: int) -> npt.NDArray[np.float64]:
        """Errors of the rows of the next call."""
        start = self.runner.position
        run = prefill_step if length > 1 else decode_step
        step = run(self.runner, ids[start : start + length], start)
        return self.yardstick.compare(step).worst

    def _verdict(self, name: str, errors: Sequence[npt.NDArray[np.float64]], places: Sequence[str]) -> CheckResult:
        worst = [float(part.max()) for part in errors]
        at = int(np.argmax(worst))
        median = float(np.median(np.concatenate(list(errors))))
        passed = worst[at] <= self.limits.worst and median <= self.limits.median
        detail = "" if passed else f"{places[at]}: relative rms {worst[at]:.2g}, median {median:.2g}"
        return CheckResult(name, worst[at], self.limits.worst, passed, detail)

    def _prefill_equals_decode(self, ids: Sequence[int]) -> CheckResult:
        self.runner.reset()
        whole = self.runner.prefill(ids)[-1]
        self.runner.reset()
        steps = np.stack([self.runner.decode(token) for token in ids])[-1]
        return self._equal("prefill equals decode", whole, steps, f"{len(ids)} tokens at once and one by one")

    def _equal(
        self, name: str, first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], what: str
    ) -> CheckResult:
        scale = float(np.sqrt(np.square(second, dtype=np.float64).mean()))
        error = float(np.sqrt(np.square(first.astype(np.float64) - second).mean())) / max(scale, 1e-30)
        limit = self.limits.apart
        if self.yardstick.rounds_cache:
            # Numbers of a rounded cache are ties of their own.
            limit = max(limit, FLIPPED_CODE)
        passed = error <= limit
        return CheckResult(name, error, limit, passed, "" if passed else f"{what}: relative rms {error:.2g}")

    def _second_conversation(self, ids: Sequence[int]) -> CheckResult:
        name, half = "second conversation", len(ids) // 2

        def talk(tokens: Sequence[int]) -> npt.NDArray[np.float32]:
            self.runner.reset()
            return np.stack([self.runner.prefill(tokens[:half])[-1], *map(self.runner.decode, tokens[half:])])

        # What is between is compared with the yardstick: rows left from one of the same tokens would be right.
        other = [ids[0], *reversed(ids[1:])]
        fresh = talk(ids)
        self.runner.reset()
        calls = [half, *[1] * (len(ids) - half)]
        between = self._verdict(
            name, [self._call(other, length) for length in calls], [f"call of {n}" for n in calls]
        )
        again = talk(ids)
        if not between.passed:
            return between
        same = np.array_equal(fresh, again)
        error = float(np.abs(fresh - again).max())
        return CheckResult(name, error, 0.0, same, "" if same else "a conversation changes the one after it")

    def _own_slots(self, ids: Sequence[int]) -> CheckResult:
        runner, slot = self.runner, len(ids) - 2
        runner.reset()
        # Of other tokens: a row that is written where the same row lies already would be no change.
        runner.prefill([ids[0], *reversed(ids[1:])])
        runner.reset()
        runner.prefill(ids[:slot])
        before = [buffer.copy() for buffer in runner.cache_buffers]
        runner.decode(ids[slot])
        wrong = set()
        for old, new in zip(before, runner.cache_buffers, strict=True):
            # Bytes, since slots that were never written may hold NaN.
            changed = (old.view(np.uint8) != new.view(np.uint8)).any(axis=-1)
            wrong |= set(np.argwhere(changed)[:, -1].tolist()) - {slot}
        detail = f"decoding into slot {slot} wrote slot {sorted(wrong)[0]} too" if wrong else ""
        return CheckResult("own slots only", float(len(wrong)), 0.0, not wrong, detail)

    def _buckets(self, ids: Sequence[int]) -> CheckResult:
        errors, places = [], []
        for slots in self.buckets[:-1]:
            self.runner.reset()
            self.runner.prefill(ids[: max(1, slots - 2)])
            for _ in range(_STEPS):
                places.append(f"slot {self.runner.position}, across the bucket of {slots}")
                errors.append(self._call(ids, 1))
            # Past the bucket, where prefill methods with its cache have no room.
            length = min(self.chunk, self.runner.cache_len - self.runner.position)
            if length > 1:
                places.append(f"call of {length} behind the bucket of {slots}")
                errors.append(self._call(ids, length))
        return self._verdict("bucket changes", errors, places)

    def _full_cache(self, ids: Sequence[int]) -> CheckResult:
        runner, full = self.runner, self.runner.cache_len
        runner.reset()
        runner.prefill(ids[: full - 3])
        errors = [self._call(ids, 1) for _ in range(3)]
        places = [f"slot {slot} of {full}" for slot in range(full - 3, full)]
        before = [buffer.copy() for buffer in runner.cache_buffers]
        try:
            runner.decode(ids[0])
        except CacheFullError:
            pass
        else:
            return CheckResult("full cache", float("inf"), 0.0, passed=False, detail="a token past it was taken")
        if any(not np.array_equal(old, new) for old, new in zip(before, runner.cache_buffers, strict=True)):
            return CheckResult("full cache", float("inf"), 0.0, passed=False, detail="a refused token changed it")
        return self._verdict("full cache", errors, places)


def _repeated(tokens: Sequence[int], count: int) -> list[int]:
    """BOS, then the others over and over, `count` in all."""
    rest = list(tokens[1:]) or list(tokens)
    return [tokens[0], *(rest * (count // len(rest) + 1))][:count]


def _spell(calls: Sequence[int]) -> str:
    return " + ".join(str(length) for length in calls)
