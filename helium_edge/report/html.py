"""The parity document as one self-contained HTML page: no script, no request, light and dark, screen and paper."""

from __future__ import annotations

import importlib.resources
import unicodedata
from collections.abc import Iterator
from typing import Any

from helium_edge.errors import MissingDependencyError
from helium_edge.parity.document import Document, all_levels
from helium_edge.report import charts, numbers
from helium_edge.report.explain import explain

TEMPLATE, STYLE = "page.html.jinja", "page.css"

# Name, unit or meaning, how to show it. In the order of the table.
_ROWS = (
    ("kld_mean", "Mean KLD", "nats per token; what the distribution lost", "figure"),
    ("kld_median", "Median KLD", "half of the tokens stay below", "figure"),
    ("kld_p99", "99 % KLD", "all but one token in a hundred stay below", "figure"),
    ("kld_p999", "99.9 % KLD", "all but one in a thousand", "figure"),
    ("kld_max", "Largest KLD", "the worst token", "figure"),
    ("top1", "Same best token", "would a greedy decoder choose alike?", "percent"),
    ("top1_decided", "\u2026 without near ties", "near ties count as agreement", "percent"),
    ("ppl_ratio", "Perplexity ratio", "1 is as good as the original", "figure"),
    ("rms_delta_p", "RMS \u0394p", "change of the true token\u2019s probability", "percent"),
    ("snr_db", "Signal to noise", "of the logits, dB", "figure"),
    ("rms_logit_error", "RMS logit error", "relative to rms(logit)", "figure"),
    ("max_logit_error", "Largest logit error", "relative to rms(logit)", "figure"),
)  # fmt: skip

_GATES = {
    "nonfinite": "NaN or infinite answers",
    "mean_kld": "Mean KLD",
    "top1": "Same best token",
    "ppl_ratio": "Perplexity ratio",
    "max_logit_error": "Largest logit error",
    "median_error": "Error of the median token",
    "worst_error": "Error of the worst token",
    "kld_beyond_l2": "Mean KLD beyond that of L2",
}
_SHARES = ("top1",)


def require_html() -> None:
    """Check that pages can be made.

    Raises:
        MissingDependencyError: The extra `report` is not installed.
    """
    try:
        import jinja2  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("jinja2", extra="report", purpose="the HTML report") from error
    charts.require_matplotlib()


def make_environment() -> Any:
    """What templates of pages are made with: everything is escaped, an unknown name is an error."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {
        "figure": numbers.figure,
        "size": numbers.size,
        "seconds": numbers.seconds,
        "shown": _shown,
    }
    return environment


def render_html(document: Document) -> str:
    """The page of a document that `check_document` let pass.

    Raises:
        MissingDependencyError: The extra `report` is not installed.
    """
    require_html()
    files = importlib.resources.files(__package__)
    template = make_environment().from_string(files.joinpath(TEMPLATE).read_text(encoding="utf-8"))
    levels = all_levels(document)
    logits = {name: found for name, found in levels.items() if name != "L0"}
    elsewhere = [name for name in levels if name not in document["levels"]]
    page: str = template.render(
        document=document,
        style=files.joinpath(STYLE).read_text(encoding="utf-8"),
        verdict=explain(document),
        cards=[_card(name, levels.get(name)) for name in ("L0", "L1", "L2", "L3", *elsewhere)],
        names=list(logits),
        figures=list(_figures(logits)),
        gates=[
            _gate(name, gate)
            for name, found in logits.items()
            for gate in found["gates"]
            if gate["limit"] is not None
        ],
        languages=[_languages(name, logits[name]) for name in ("L3", "L2", "L1") if name in logits][:1],
        charts=_charts(document),
        checks_failed=sum(not check["passed"] for check in document["checks"]),
        samples=[_sample(sample) for sample in document["greedy"]],
        graph=charts.shown_graph(document["layers"]),
        worst_layers=_worst_layers(document["layers"]),
        changes=_changes(document["baseline"]),
        cost=_cost(document["cost"]),
        files=sorted(document["subject"].get("files", []), key=lambda file: -file["bytes"]),
    )
    return page


def _card(name: str, level: Any) -> dict[str, Any]:
    """A level at a glance: its question and the one figure that answers it."""
    titles = {
        "L0": ("Weights", "Does the file hold the quantized integers?"),
        "L1": ("Graph", "Does the graph compute what its weights say?"),
        "L2": ("Quantization", "What does rounding the weights cost?"),
        "L3": ("End to end", "What does the user get?"),
    }
    title, question = titles.get(name, ("End to end", "And on this processor? Emulated."))
    card = {"name": name, "title": title, "question": question, "state": "skipped", "figure": "", "unit": ""}
    if level is None:
        return card
    card["state"] = "passed" if level["passed"] else "failed"
    if name == "L0":
        equal = level["tensors"] - len(level["differences"])
        return card | {"figure": f"{equal} of {level['tensors']}", "unit": "tensors equal, bit for bit"}
    overall = level["overall"]
    if overall["nonfinite"]:
        return card | {"figure": f"{overall['nonfinite']:,}", "unit": "answers NaN or infinite"}
    if name == "L1":
        median = next((gate["measured"] for gate in level["gates"] if gate["name"] == "median_error"), None)
        error = overall["rms_logit_error"] if median is None else median
        return card | {"figure": numbers.figure(error, 2), "unit": "relative error of the median token"}
    if name == "L2":
        value, error = numbers.error(overall["kld_mean"], overall["kld_mean_se"])
        return card | {"figure": value, "unit": f"\u00b1 {error} nats of KLD" if error else "nats of KLD"}
    value, error = numbers.percent(overall["top1_decided"], overall["top1_decided_se"])
    near = "same next token, near ties aside" if overall["ambiguous"] else "same next token"
    return card | {"figure": value, "unit": f"\u00b1 {error} {near}" if error else near}


def _figures(levels: Any) -> Iterator[dict[str, Any]]:
    tokens = [(f"{found['tokens']:,}", "") for found in levels.values()]
    yield {
        "title": "Tokens",
        "meaning": "compared; a bundle may return the logits of the last token only",
        "cells": tokens,
    }
    for key, title, meaning, kind in _ROWS:
        show = numbers.percent if kind == "percent" else numbers.error
        cells = [show(found["overall"][key], found["overall"].get(f"{key}_se")) for found in levels.values()]
        yield {"title": title, "meaning": meaning, "cells": cells}


def _gate(level: str, gate: Any) -> dict[str, Any]:
    """A gate that has a limit, with the share of it that is used up where that means something."""
    measured, limit, name = gate["measured"], gate["limit"], gate["name"]
    used = None
    if measured is not None:
        # Distance from perfection: 0 for errors, 1 for ratios and shares.
        perfect = 1.0 if name in ("top1", "ppl_ratio") else 0.0
        if limit != perfect:
            used = max(0.0, (measured - perfect) / (limit - perfect))
    inside = measured is not None and (measured <= limit if gate["bound"] == "max" else measured >= limit)
    state = "failed" if not gate["passed"] else "passed" if inside else "noise"
    show = numbers.percent if name in _SHARES else numbers.error
    value, error = show(measured, gate["standard_error"])
    bound = f"{100 * limit:g} %" if name in _SHARES else _limit(limit)
    side = "\u2264" if gate["bound"] == "max" else "\u2265"
    return {
        "level": level,
        "name": _GATES.get(name, name),
        "aside": "near ties count as agreement" if name == "top1" else "",
        "value": "NaN or infinite" if measured is None else value,
        "error": error,
        "limit": f"{side} {bound}",
        "used": used,
        "state": state,
    }


def _limit(limit: float) -> str:
    """A limit as somebody wrote it."""
    return numbers.figure(limit, 2) if 0 < limit < 1e-4 else f"{limit:.3g}" if limit < 1 else f"{limit:g}"


def _languages(name: str, level: Any) -> dict[str, Any]:
    rows = []
    for language, found in [*level["languages"].items(), ("all", level["overall"])]:
        cells = [
            (f"{found['tokens']:,}", ""),
            numbers.error(found["kld_mean"], found["kld_mean_se"]),
            numbers.percent(found["top1"], found["top1_se"]),
            numbers.percent(found["top1_decided"], found["top1_decided_se"]),
            numbers.error(found["ppl_ratio"], found["ppl_ratio_se"]),
            (numbers.figure(found["max_logit_error"], 2), ""),
        ]
        rows.append({"language": language, "cells": cells})
    return {"level": name, "rows": rows}


def _charts(document: Document) -> dict[str, str]:
    levels = document["levels"]
    level = levels.get("L3") or levels.get("L2")
    limits = [gate["limit"] for gate in (level or {"gates": []})["gates"] if gate["name"] == "mean_kld"]
    return {
        "histogram": charts.kld_histogram(levels),
        "position": charts.kld_by_position(levels),
        "language": charts.kld_by_language(levels, limits[0] if limits else None),
        "layers": charts.snr_by_layer(document["layers"]),
    }


def _sample(sample: Any) -> dict[str, Any]:
    """A sample whose two texts are cut where they part."""
    reference, candidate = sample["reference"], sample["candidate"]
    at = _parting(reference, candidate) if sample["first_divergence"] is not None else len(reference)
    state = "equal" if sample["first_divergence"] is None else "near" if sample["ambiguous"] else "parted"
    return {
        **sample,
        "state": state,
        "texts": [("Original", *_cut(reference, at, state)), ("Export", *_cut(candidate, at, state))],
    }


def _parting(one: str, other: str) -> int:
    """Where two texts part, moved back to the start of the word."""
    at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    if one[at : at + 1].isspace() and other[at : at + 1].isspace():
        return at
    while at > 0 and not one[at - 1].isspace() and at < max(len(one), len(other)):
        at -= 1
    return at


def _cut(text: str, at: int, state: str) -> tuple[str, str, str]:
    """What both share, the first word that differs, and the rest."""
    if state == "equal":
        return text, "", ""
    rest = text[at:]
    words = rest.split(maxsplit=1)
    if not words:
        return text[:at], "\u2205", ""  # this one ends where the other goes on
    end = rest.index(words[0]) + len(words[0])
    return text[:at], rest[:end], rest[end:]


def _worst_layers(layers: Any) -> list[Any]:
    """The rows to look at: the guilty one, then the largest errors of their own."""
    rows = (layers or {}).get("rows", [])
    known = [row for row in rows if row.get("own_error") is not None]
    ranked = sorted(known or rows, key=lambda row: (not row.get("guilty"), -(row.get("own_error") or 0.0)))
    return ranked[:8]


def _changes(baseline: Any) -> list[Any]:
    """Figures that moved beyond the noise, regressions first."""
    found = [change for change in (baseline or {}).get("changes", []) if change["verdict"] != "same"]
    return sorted(found, key=lambda change: change["verdict"] != "worse")


def _cost(cost: Any) -> list[dict[str, Any]]:
    """Where the time went, in shares of the whole."""
    if not cost or not cost["wall"]:
        return []
    parts = [(name, spent or 0.0) for name, spent in cost["forward"].items()]
    rest = max(0.0, cost["wall"] - sum(spent for _, spent in parts))
    return [
        {"name": name, "seconds": spent, "share": 100 * spent / cost["wall"]}
        for name, spent in [*parts, ("everything else", rest)]
    ]


def _shown(text: object) -> str:
    """Foreign text made harmless: control characters, and marks that would turn the text around them."""
    bad = {"\u202a", "\u202b", "\u202c", "\u202d", "\u202e", "\u2066", "\u2067", "\u2068", "\u2069"}
    return "".join(
        "\ufffd" if char in bad or (unicodedata.category(char) == "Cc" and char not in "\n\t") else char
        for char in str(text)
    )
