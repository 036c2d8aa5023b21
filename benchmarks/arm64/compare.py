"""Runs the calls here, and compares what they give with what they gave on ARM64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from arm64.script import Call
from arm64.toolchain import Cpu
from helium_edge.bundle import GoldenCheck, Manifest
from helium_edge.errors import BundleError
from helium_edge.model.weights import head_name
from helium_edge.parity.rollout import Step
from helium_edge.parity.yardstick import Yardstick
from helium_edge.quant import WeightStore
from helium_edge.runtime.runner import CachedRunner, Logits
from helium_edge.signature import DecoderSpec, Phase

TOLERANCE = 1e-5
"""Relative rms of a call that differs by nothing but the order of float32 sums: measured 1e-7 to 1.1e-6."""

RULE = 1e-5
"""The same of the median token against torch that rounds as the processor does; the others have a flip."""

ROUNDING = 2e-2
"""The same per square root of the layers where activations are rounded to int8. A code that falls on the other
side of a rounding boundary moves all that follows, until it is as far off as another rounding of the same numbers
would be: a rounding costs a product 8 / 255 / sqrt(12) = 0.9 % of its rms, a layer has four products, and two
roundings differ by sqrt(2) times that. Measured: 0.3 % to 3 % on six layers (docs/arm64.md)."""

RARE_FLIPS = 30_000
"""Activations rounded per token up to which most calls are free of such a code on XNNPACK, whose arithmetic is the
same on both processors: measured one in 130,000."""

_TINY = 1e-30

Rows = npt.NDArray[Any]
"""Of the cache, in its own type."""


@dataclass(frozen=True)
class CallResult:
    """What one call gave: logits (R, V), and the rows of the cache that it wrote, each (Hkv, T, D)."""

    logits: Logits
    rows: list[Rows]


@dataclass(frozen=True)
class CallDifference:
    """How far one call on ARM64 is from the same call here.

    Attributes:
        phase: `prefill` or `decode`.
        tokens: Real tokens of the call.
        logits_rms: rms of the difference over rms of the logits here.
        logits_max: Largest difference over rms of the logits here.
        cache_rms: The largest over all layers of rms of the difference over rms, of keys and of values.
        same_choice: Whether the last token's largest logit is the same one.
        of_rule: (T,) how far each token is, in its logits or in the rows that it wrote, from torch with the
            activations rounded as kernels do on that processor; empty where that was not computed.
    """

    phase: str
    tokens: int
    logits_rms: float
    logits_max: float
    cache_rms: float
    same_choice: bool
    of_rule: tuple[float, ...] = ()

    @property
    def worst(self) -> float:
        """The larger relative rms."""
        return _largest(self.logits_rms, self.cache_rms)


@dataclass(frozen=True)
class Arm64Report:
    """The comparison of a bundle on ARM64 with the same bundle here.

    Attributes:
        cpu: The emulated processor.
        runtime: Name and version of what ran on both.
        limit: The relative rms that no call may exceed.
        median_limit: The one that the median call may not exceed.
        calls: Each call; all started from the cache that this machine had.
        golden: The golden trace, judged as on any other host; None where the bundle has none, or it does not hold.
        golden_failure: Why it does not.
        rule: How kernels round activations on that processor, in words.
        rule_limit: The relative rms that the median token may not exceed against torch by that rule.
    """

    cpu: str
    runtime: str
    limit: float
    median_limit: float
    calls: tuple[CallDifference, ...]
    golden: GoldenCheck | None = None
    golden_failure: str = ""
    rule: str = ""
    rule_limit: float = RULE

    @property
    def agreeing(self) -> int:
        """Calls whose logits and rows are equal but for the order of sums."""
        return sum(call.worst <= TOLERANCE for call in self.calls)

    @property
    def passed(self) -> bool:
        """Whether every call is within the limit; one that is not finite is not."""
        return not self.failures

    @property
    def failures(self) -> list[str]:
        """What is wrong, in words; empty when nothing is."""
        found = []
        where = f"on ARM64 ({self.cpu})"
        bad = [call for call in self.calls if not call.worst <= self.limit]
        if bad:
            count = f"{len(bad)} of {len(self.calls)} calls are off"
            found.append(
                f"{where} {count} by more than {self.limit:.2g} (relative rms), by {bad[0].worst:.2g} first"
            )
        if not self.median <= self.median_limit:
            found.append(f"{where} the median call is off by {self.median:.2g}, limit {self.median_limit:.2g}")
        if self.golden_failure:
            found.append(f"{where} {self.golden_failure}")
        if not self.rule_median <= self.rule_limit:
            found.append(
                f"{where} the median token is off by {self.rule_median:.2g} from torch that rounds {self.rule}, "
                f"limit {self.rule_limit:.2g}"
            )
        return found

    @property
    def of_rule(self) -> npt.NDArray[np.float64]:
        """How far every token is from torch that rounds as that processor does."""
        return np.array([error for call in self.calls for error in call.of_rule])

    @property
    def rule_median(self) -> float:
        """The median one; 0 where nothing was computed, NaN if any is."""
        return float(np.median(self.of_rule)) if len(self.of_rule) else 0.0

    def only(self, phase: str) -> Arm64Report:
        """The same report of one phase."""
        return replace(self, calls=tuple(call for call in self.calls if call.phase == phase))

    @property
    def worst(self) -> float:
        """The largest relative rms of a call; NaN if any is."""
        return _largest(*(call.worst for call in self.calls))

    @property
    def median(self) -> float:
        """The median one; NaN if any is."""
        return float(np.median([call.worst for call in self.calls]))

    def to_json(self) -> dict[str, Any]:
        """All figures, for `--json`."""
        return {
            "cpu": self.cpu,
            "runtime": self.runtime,
            "calls": len(self.calls),
            "agreeing_calls": self.agreeing,
            "tolerance": TOLERANCE,
            "limit": self.limit,
            "median_limit": self.median_limit,
            "median": self.median,
            "worst": self.worst,
            "logits_rms_max": _largest(*(call.logits_rms for call in self.calls)),
            "logits_max": _largest(*(call.logits_max for call in self.calls)),
            "cache_rms_max": _largest(*(call.cache_rms for call in self.calls)),
            "same_choice": sum(call.same_choice for call in self.calls) / len(self.calls),
            "golden": None if self.golden is None else asdict(self.golden),
            "golden_failure": self.golden_failure,
            "rule": self.rule,
            "rule_median": self.rule_median,
            "rule_limit": self.rule_limit,
            "rule_tokens": len(self.of_rule),
            "rule_equal_tokens": int((self.of_rule <= RULE).sum()),
            "passed": self.passed,
        }


def limits(manifest: Manifest) -> tuple[float, float]:
    """How far any call, and the median call, may be off for a bundle."""
    model = manifest.model
    if all(scheme == "float32" for scheme in manifest.quantization.summary):
        return TOLERANCE, TOLERANCE
    limit = ROUNDING * math.sqrt(model.layers)
    rounded = model.layers * (3 * model.hidden_size + model.intermediate_size) + model.hidden_size
    strict = manifest.target.name == "xnnpack" and rounded <= RARE_FLIPS
    return limit, TOLERANCE if strict else limit


def rule_limit(manifest: Manifest, store: WeightStore, cpu: Cpu, *, exact: bool) -> float:
    """How far the median token may be off torch that rounds as a processor does.

    Without i8mm ONNX Runtime's kernel of int8 weights sums with fewer digits (docs/arm64.md): where layers have
    such weights, every token has a flip by that. So it is where the rule is not exact: attention over a float16
    cache adds up in float16, in an order that is not emulated.
    """
    head = head_name(store.config)
    schemes = [weight.scheme for weight in store.plan[1:] if weight.name != head]
    int8 = any(scheme is not None and scheme.bits == 8 for scheme in schemes)
    short_sums = int8 and manifest.target.name == "onnx" and cpu.kind == "arm64" and not cpu.i8mm
    return ROUNDING * math.sqrt(manifest.model.layers) if short_sums or not exact else RULE


def run_here(runner: CachedRunner, calls: Sequence[Call]) -> list[CallResult]:
    """Run the calls on this machine."""
    runner.reset()
    results = []
    for call in calls:
        start = runner.position
        logits = runner.prefill(call.tokens) if call.phase == "prefill" else runner.decode(call.tokens[0])[None]
        slots = slice(start, runner.position)
        rows = [buffer.reshape(buffer.shape[-3:])[:, slots].copy() for buffer in runner.cache_buffers]
        results.append(CallResult(logits, rows))
    return results


def read_results(data: bytes, spec: DecoderSpec, calls: Sequence[Call]) -> Iterator[CallResult]:
    """Results of the calls from the output of a runner program.

    Raises:
        BundleError: Too little or too much of it.
    """
    cache = spec.cache
    done = 0

    def take(dtype: str, *shape: int) -> Rows:
        nonlocal done
        kind = np.dtype(dtype).newbyteorder("<")
        start, done = done, done + math.prod(shape) * kind.itemsize
        if done > len(data):
            raise BundleError("the ARM64 run wrote less than its calls give")
        return np.frombuffer(data[start:done], kind).reshape(shape)

    for call in calls:
        count = len(call.tokens)
        logits = take("float32", count if spec.logits == "all" else 1, spec.vocab_size)
        rows = [
            take(cache.dtype, cache.num_key_value_heads, count, cache.head_dim) for _ in range(2 * cache.layers)
        ]
        yield CallResult(logits, rows)
    if done != len(data):
        raise BundleError("the ARM64 run wrote more than its calls give")


def against_rule(
    yardstick: Yardstick, calls: Sequence[Call], found: Sequence[CallResult], cache: Sequence[Rows]
) -> Iterator[tuple[float, ...]]:
    """How far the tokens of each call are from torch that rounds as that processor does.

    Args:
        yardstick: Made for the arithmetic of that processor.
        calls: The calls, one after the other from the first token on.
        found: What they gave there.
        cache: Keys and values of each layer as this machine wrote them, each (Hkv, S, D): every call there
            started from them.
    """
    start = 0
    for call, result in zip(calls, found, strict=True):
        end = start + len(call.tokens)
        written = [buffer.copy() for buffer in cache]
        for buffer, rows in zip(written, result.rows, strict=True):
            buffer[:, start:end] = rows
        phase: Phase = "prefill" if call.phase == "prefill" else "decode"
        agreement = yardstick.compare(Step(start, call.tokens, result.logits, written, phase))
        yield tuple(agreement.worst.tolist())
        start = end


def difference(call: Call, found: CallResult, expected: CallResult) -> CallDifference:
    """Compare one call."""
    gap = found.logits.astype(np.float64) - expected.logits
    # A tensor of zeros here must be one there.
    scale = max(_rms(expected.logits), _TINY)
    rows = [
        _rms(a.astype(np.float64) - b) / max(_rms(b), _TINY)
        for a, b in zip(found.rows, expected.rows, strict=True)
    ]
    return CallDifference(
        phase=call.phase,
        tokens=len(call.tokens),
        logits_rms=_rms(gap) / scale,
        logits_max=float(np.abs(gap).max()) / scale,
        cache_rms=_largest(*rows),
        same_choice=bool(found.logits[-1].argmax() == expected.logits[-1].argmax()),
    )


def _rms(values: npt.NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _largest(*values: float) -> float:
    """The largest; NaN if any is, which Python's own `max` may lose."""
    return float(np.max(values))
