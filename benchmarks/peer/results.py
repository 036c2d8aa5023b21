"""Results of several runs in one JSON file: what is measured anew replaces what was there, the rest stays."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Results = dict[str, Any]
"""`machine`, `threads`; `agreement` by peer; `models`: by shape, `engines`, `pairs`, `exports`, `not_run`.

A pair is one peer and one of our bundles in one alternating run: `ours` and `theirs` hold seconds, and samples at
the same place were taken next to each other.
"""


def load(path: Path) -> Results:
    """Read a file of results; an empty one where there is none."""
    if not path.exists():
        return {"agreement": {}, "models": {}}
    found: Results = json.loads(path.read_text(encoding="utf-8"))
    return found


def save(results: Results, path: Path) -> None:
    """Write results, sorted, so that a change is a small diff."""
    path.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def merge(old: Results, new: Results) -> Results:
    """Dictionaries are merged key by key, anything else of `new` replaces what was there.

    A peer that ran, or an exporter that came to its end, is no longer among those that did not.
    """
    merged = _merge(old, new)
    for name, model in new.get("models", {}).items():
        ran = {*model.get("engines", {}), *model.get("exports", {})}
        waiting = merged["models"][name].get("not_run", {})
        merged["models"][name]["not_run"] = {peer: why for peer, why in waiting.items() if peer not in ran}
    return merged


def pairs_of(
    bundles: Sequence[str], measure: str, samples: dict[str, list[float]], about: dict[str, Any]
) -> dict[str, Any]:
    """Cut the samples of a measure, by engine, into pairs of one of our bundles and another engine.

    Args:
        bundles: Names of ours. The first is paired with every other engine, the others with those that are not
            ours: two bundles are one pair, not two.
        measure: What was timed.
        samples: Seconds.
        about: `tokens` of a sample, `others`: share of the machine that others took, and `date`.

    Returns:
        By bundle, peer and measure: seconds of both sides, and `about`.
    """

    def pairs(bundle: str, passed_over: Sequence[str]) -> dict[str, Any]:
        ours = samples[bundle]
        return {
            peer: {measure: {"ours": ours, "theirs": theirs, **about}}
            for peer, theirs in samples.items()
            if peer not in passed_over
        }

    first, *further = bundles
    return {first: pairs(first, [first]), **{bundle: pairs(bundle, bundles) for bundle in further}}


def _merge(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{key: _merge(old.get(key), value) for key, value in new.items()}}
    return new
