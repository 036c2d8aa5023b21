"""A parity document against an earlier one of the same bundle and text: what got worse beyond the noise?

Both runs read the very same tokens. Their errors are then correlated, because a token that is hard for one export
is hard for the next, and the standard error of the difference is smaller than sqrt(before^2 + after^2), which is
for two independent texts. Where both documents have figures by window, the differences are paired window by window
(clustered standard error, Student's t for few windows); elsewhere the independent formula stands in: it is too
wide, so that it may miss a small regression, and invents none.

L1 has no sampling error worth the name: its figures are rounding noise of kernels, the same at every run on one
machine. The error of the median token, which an activation on the edge between two codes does not move, gets a
ratio instead.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from helium_edge.durable import replace_file
from helium_edge.errors import InputError
from helium_edge.parity.document import Baseline, Change, Document, all_levels

STANDARD_ERRORS = 3.0
MIN_WINDOWS = 8
"""Fewer pairs tell too little of their own scatter."""

_SUBJECT = ("recipe", "target", "dialect", "runtime")
_TEXT = ("sha256", "windows", "tokens")


@dataclass(frozen=True)
class _Metric:
    """A figure that is ratcheted.

    Attributes:
        name: In the aggregate.
        sign: 1 where a larger value is worse, -1 where a smaller one is.
        relative: A change below this share of the value is none, however certain it is.
        absolute: Likewise, in the unit of the figure.
    """

    name: str
    sign: int = 1
    relative: float = 0.0
    absolute: float = 0.0

    def floor(self, before: float) -> float:
        return max(self.relative * abs(before), self.absolute)


_SAMPLED = (
    _Metric("kld_mean", relative=0.01),
    _Metric("top1_decided", sign=-1, absolute=0.001),
    _Metric("ppl_ratio", absolute=0.0005),
    _Metric("rms_logit_error", relative=0.01),
)
_TAIL = _Metric("kld_p99", relative=0.01)
"""For all of the text only: one language has too few tokens in its last hundredth."""

_RATIOS: Mapping[str, tuple[float, float]] = {"median_error": (2.0, 2e-6)}
"""L1: by what factor the value of a gate may grow, and below which value it is float32 noise whatever it was."""


@dataclass(frozen=True)
class BaselineReport:
    """What changed since the baseline.

    Attributes:
        source: Names the baseline.
        changes: Every figure that was compared.
        lost: What the baseline has and this run has not: levels, checks.
        notes: Differences of the environment, which explain changes and forbid none.
    """

    source: str
    changes: tuple[Change, ...]
    lost: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def failures(self) -> list[str]:
        """One line for each regression."""
        lines = [f"baseline: {what}" for what in self.lost]
        return lines + [f"baseline: {change}" for change in self.changes if change.verdict == "worse"]

    @property
    def improvements(self) -> list[str]:
        """One line for each figure that is better beyond the noise."""
        return [str(change) for change in self.changes if change.verdict == "better"]

    @property
    def passed(self) -> bool:
        """Whether nothing got worse."""
        return not self.failures

    def document(self) -> Baseline:
        """As it is written."""
        return Baseline(
            source=self.source,
            passed=self.passed,
            failures=tuple(self.failures),
            improvements=tuple(self.improvements),
            notes=self.notes,
            changes=self.changes,
        )


def compare_with_baseline(document: Document, baseline: Document, *, source: str) -> BaselineReport:
    """Compare a run with an earlier one of the same checkpoint, recipe, target, runtime and text.

    Args:
        document: This run.
        baseline: The earlier one, checked by `read_document`.
        source: Names the baseline in messages.

    Raises:
        InputError: The baseline is one of something else; what differs is named.
    """
    _check_comparable(document, baseline, source)
    now, then = all_levels(document), all_levels(baseline)
    lost = [f"{name} was not run" for name in then if name not in now]
    names = {check["name"] for check in document["checks"]}
    lost += [
        f"the check {check['name']!r} was not run" for check in baseline["checks"] if check["name"] not in names
    ]
    changes = [
        change
        for name in then
        if name != "L0" and name in now
        for change in (_ratios if name == "L1" else _sampled)(name, then[name], now[name])
    ]
    notes = []
    if baseline["subject"].get("recipe_sha256") != document["subject"].get("recipe_sha256"):
        notes.append("the recipe was changed")
    notes += [
        f"{name} was {baseline['environment'].get(name)}, is {value}"
        for name, value in document["environment"].items()
        if baseline["environment"].get(name) != value
    ]
    return BaselineReport(source, tuple(changes), tuple(lost), tuple(notes))


def write_baseline(document: Document, path: Path) -> None:
    """Store a run as the next baseline, in one step; what changes from run to run is left out."""
    kept = {**document, "baseline": None, "cost": None}
    replace_file(path, (json.dumps(kept, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _check_comparable(document: Document, baseline: Document, source: str) -> None:
    """A checkpoint is known by its content, wherever it lies; a recipe by its name: its rules may change."""
    then, now = baseline["subject"], document["subject"]
    checkpoint = (
        "checkpoint_sha256" if "checkpoint_sha256" in then and "checkpoint_sha256" in now else "checkpoint"
    )
    pairs = [("checkpoint", then.get(checkpoint), now.get(checkpoint))]
    pairs += [(name, then.get(name), now.get(name)) for name in _SUBJECT]
    pairs += [(f"text ({name})", baseline["text"].get(name), document["text"].get(name)) for name in _TEXT]
    for what, before, after in pairs:
        if before != after:
            if what == "checkpoint" and then.get(what) != now.get(what):
                before, after = then.get(what), now.get(what)
            raise InputError(
                f"{source}: a baseline of another {what}: {_short(before)} there, {_short(after)} in this run",
                hint="name the baseline of this bundle and text, or write a new one with --update-baseline",
            )


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 40 else f"{text[:24]}...{text[-12:]}"


def _sampled(level: str, then: Any, now: Any) -> Iterator[Change]:
    """Figures with a standard error, for all of the text and per language."""
    texts = [("all", then["overall"], now["overall"])]
    texts += [(name, then["languages"][name], found) for name, found in now["languages"].items()
              if name in then["languages"]]  # fmt: skip
    for text, before, after in texts:
        pairs = _pairs(then, now, None if text == "all" else text)
        for metric in (*_SAMPLED, _TAIL) if text == "all" else _SAMPLED:
            old, new = _number(before[metric.name]), _number(after[metric.name])
            error = _paired_error(metric.name, pairs, new)
            rule: Literal["paired", "independent"] = "independent" if error is None else "paired"
            if error is None:
                error = STANDARD_ERRORS * math.hypot(
                    before[f"{metric.name}_se"] or 0.0, after[f"{metric.name}_se"] or 0.0
                )
            allowed = max(error, metric.floor(old))
            yield Change(level, text, metric.name, old, new, allowed, rule, _judge(metric.sign, old, new, allowed))


def _ratios(level: str, then: Any, now: Any) -> Iterator[Change]:
    """Figures of L1: the same at every run, so that only their order of magnitude is held."""
    before, after = ({gate["name"]: gate["measured"] for gate in found["gates"]} for found in (then, now))
    for name in before.keys() & after.keys() & _RATIOS.keys():
        factor, noise = _RATIOS[name]
        old, new = _number(before[name]), _number(after[name])
        allowed = max(factor * old, noise) - old
        verdict = _judge(1, old, new, allowed)
        if verdict == "same" and old > noise and new * factor < old:
            verdict = "better"
        yield Change(level, "all", name, old, new, allowed, "ratio", verdict)


def _judge(sign: int, before: float, after: float, allowed: float) -> Literal["worse", "same", "better"]:
    if not math.isfinite(after):
        return "worse" if math.isfinite(before) else "same"
    if not math.isfinite(before):
        return "better"
    worse_by = sign * (after - before)
    return "worse" if worse_by > allowed else "better" if worse_by < -allowed else "same"


def _pairs(then: Any, now: Any, language: str | None) -> list[tuple[Any, Any]]:
    """Figures of the same windows in both documents; empty where one has none."""
    before, after = then.get("by_window") or [], now.get("by_window") or []
    if [(window["language"], window["tokens"]) for window in before] != [
        (window["language"], window["tokens"]) for window in after
    ]:
        return []
    return [pair for pair in zip(before, after, strict=True) if language in (None, pair[0]["language"])]


def _paired_error(metric: str, pairs: list[tuple[Any, Any]], after: float) -> float | None:
    """Three standard errors of the paired difference, clustered by window; None where it cannot be told."""
    name = "log_ppl_ratio" if metric == "ppl_ratio" else metric
    if len(pairs) < MIN_WINDOWS or any(window.get(name) is None for pair in pairs for window in pair):
        return None
    total = sum(old["tokens"] for old, _ in pairs)
    weights = [old["tokens"] / total for old, _ in pairs]
    differences = [new[name] - old[name] for old, new in pairs]
    mean = sum(weight * difference for weight, difference in zip(weights, differences, strict=True))
    count = len(pairs)
    scatter = sum((weight * (found - mean)) ** 2 for weight, found in zip(weights, differences, strict=True))
    error = math.sqrt(count / (count - 1) * scatter)
    # From the logarithm back to the ratio.
    return _student(count - 1) * error * (after if metric == "ppl_ratio" else 1.0)


def _student(freedom: int) -> float:
    """Quantile of Student's t where the normal distribution has STANDARD_ERRORS (Abramowitz and Stegun 26.7.5)."""
    z = STANDARD_ERRORS
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
