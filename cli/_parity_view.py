"""How a parity document is shown on a terminal: the levels in one table, then what needs to be seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from . import _console
from ._format import duration, figure

if TYPE_CHECKING:
    from helium_edge.parity.document import Document

_LEVELS = {"L0": "L0 store", "L1": "L1 graph", "L2": "L2 weights", "L3": "L3 export"}
_SHOWN_LAYERS = 8
_SHOWN_CHANGES = 12


def show_parity(document: Document, *, stderr: bool = False) -> None:
    """Show a run: a line for each level, the languages, and whatever is not plainly in order."""
    from helium_edge.parity.document import all_levels

    subject, levels = document["subject"], all_levels(document)
    named = [str(subject[key]) for key in ("recipe", "runtime") if subject.get(key)]
    named += _sizes(document)
    verdict = "passed" if document["passed"] else "FAILED"
    what = f" of {subject['bundle']}" if subject.get("bundle") else ""
    of = f" ({', '.join(named)})" if named else ""
    _console.title(f"Parity{what} with the original: {verdict}{of}", stderr=stderr)
    rows = [
        (_LEVELS.get(name, name), _answer(name, level), "ok" if level["passed"] else "FAILED")
        for name, level in levels.items()
    ]
    if rows:
        _console.table(["level", "found", "verdict"], rows, stderr=stderr)
    _show_gates(levels, stderr)
    _show_checks(document["checks"], stderr)
    _show_layers(document["layers"], stderr)
    for name in ("L3", "L2", "L1"):
        if name in levels and len(levels[name]["languages"]) > 1:
            _show_languages(levels[name], stderr)
            break
    _show_baseline(document["baseline"], stderr)
    _console.line("", stderr=stderr)
    for line in _lines(document):
        _console.line(line, stderr=stderr)


def _sizes(document: Document) -> list[str]:
    """How much text was run, and at how many of its positions it was compared (docs/parity.md, Text)."""
    run = document["text"].get("tokens")
    compared = document["levels"].get("L3", {}).get("overall", {}).get("tokens")
    if not run or not compared or run == compared:
        return [f"{run or compared:,} tokens"] if run or compared else []
    return [f"{run:,} tokens", f"compared at {compared:,}"]


def _answer(name: str, level: Any) -> str:
    """What a level found, in one line of at most 60 characters."""
    if name == "L0":
        wrong = len(level["differences"])
        return (
            f"{level['tensors']} tensors equal" if not wrong else f"{wrong} of {level['tensors']} tensors differ"
        )
    overall = level["overall"]
    if overall["nonfinite"]:
        return f"NaN or infinite at {overall['nonfinite']:,} of {overall['tokens']:,} positions"
    if name == "L1":
        gates = {gate["name"]: gate["measured"] for gate in level["gates"]}
        if "median_error" in gates:
            median, worst = figure(gates["median_error"], 2), figure(gates["worst_error"], 2)
            return f"relative error {median}, at worst {worst}"
        return f"relative error {figure(overall['rms_logit_error'], 2)}, KLD {figure(overall['kld_mean'], 2)}"
    parts = [
        f"KLD {_with_error(overall, 'kld_mean')}",
        f"decided {_with_error(overall, 'top1_decided')}",
        f"PPL \u00d7{_with_error(overall, 'ppl_ratio')}",
    ]
    return ", ".join(parts)


def _by_noise(gate: Any) -> bool:
    """Whether a gate holds only by the allowance for the sample's noise."""
    if not gate["passed"] or gate["measured"] is None:
        return False
    beyond = gate["measured"] - gate["limit"]
    return bool(beyond > 0 if gate["bound"] == "max" else beyond < 0)


def _with_error(figures: Any, name: str) -> str:
    """A figure with its standard error: `0.0364\u00b10.0006`, shares in percent."""
    from helium_edge.report import numbers

    show = numbers.percent if name.startswith("top1") else numbers.error
    value, error = show(figures[name], figures[f"{name}_se"])
    tail = f"\u00b1{error}" if error else ""
    return f"{value.removesuffix(' %')}{tail}%" if value.endswith(" %") else f"{value}{tail}"


def _show_languages(level: Any, stderr: bool) -> None:
    columns = ["text", "tokens", "mean KLD", "top-1", "decided", "PPL ratio", "max error"]
    names = ("kld_mean", "top1", "top1_decided", "ppl_ratio")
    rows = [
        (
            language,
            found["tokens"],
            *(_with_error(found, name) for name in names),
            figure(found["max_logit_error"], 2),
        )
        for language, found in [*level["languages"].items(), ("all", level["overall"])]
    ]
    _console.line("", stderr=stderr)
    _console.table(columns, rows, right=columns[1:], stderr=stderr)


def _show_gates(levels: Any, stderr: bool) -> None:
    """Gates that do not hold, or only within the noise."""
    rows: list[Sequence[object]] = []
    for name, level in levels.items():
        for gate in level.get("gates", ()):
            if gate["passed"] is False or _by_noise(gate):
                limit = f"at {'most' if gate['bound'] == 'max' else 'least'} {gate['limit']:g}"
                error = figure(gate["standard_error"], 2) if gate["standard_error"] else "-"
                measured = "not finite" if gate["measured"] is None else figure(gate["measured"], 4)
                state = "FAILED" if not gate["passed"] else "ok, within noise"
                rows.append((name, gate["name"], measured, error, limit, state))
        rows += [(name, found["tensor"], found["detail"], "-", "equal", "FAILED")
                 for found in level.get("differences", ())[:_SHOWN_CHANGES]]  # fmt: skip
    if rows:
        _console.line("", stderr=stderr)
        columns = ["level", "gate", "measured", "std error", "limit", "verdict"]
        _console.table(columns, rows, right=["measured", "std error"], stderr=stderr)


def _show_checks(checks: Sequence[Any], stderr: bool) -> None:
    if all(check["passed"] for check in checks):
        return
    _console.line("", stderr=stderr)
    rows = []
    for check in checks:
        state, where = ("ok", "") if check["passed"] else ("FAILED", check["detail"])
        rows.append((check["name"], figure(check["measured"], 2), figure(check["limit"], 2), state, where))
    columns = ["cache check", "difference", "limit", "verdict", "where"]
    _console.table(columns, rows, right=["difference", "limit"], stderr=stderr)


def _show_layers(layers: Any, stderr: bool) -> None:
    """The guilty rows and the largest errors of their own."""
    if not layers or not layers["rows"]:
        return
    ranked = sorted(layers["rows"], key=lambda row: (not row.get("guilty"), -(row.get("own_error") or 0.0)))
    guilty = sum(bool(row.get("guilty")) for row in ranked)
    rows = []
    for row in ranked[: min(guilty, _SHOWN_LAYERS) + 3]:
        place = "-" if row["layer"] is None else row["layer"], row["op"], row.get("graph", "-")
        errors = [figure(row.get(name), 2) for name in ("own_error", "accumulated_error")]
        state = "GUILTY" if row.get("guilty") else "ok"
        rows.append((*place, *errors, figure(row.get("own_snr_db"), 3), state))
    columns = ["layer", "operation", "graph", "own error", "arriving", "SNR dB", "verdict"]
    _console.line("", stderr=stderr)
    _console.table(columns, rows, right=["layer", "own error", "arriving", "SNR dB"], stderr=stderr)


def _show_baseline(baseline: Any, stderr: bool) -> None:
    changes = [change for change in (baseline or {}).get("changes", ()) if change["verdict"] != "same"]
    changes.sort(key=lambda change: bool(change["verdict"] != "worse"))
    if not changes:
        return
    rows = []
    for change in changes[:_SHOWN_CHANGES]:
        figures = figure(change["before"], 4), figure(change["after"], 4), figure(change["allowed"], 2)
        state = "WORSE" if change["verdict"] == "worse" else "better"
        rows.append((change["level"], change["text"], change["metric"], *figures, state))
    columns = ["level", "text", "figure", "baseline", "now", "allowed", "verdict"]
    _console.line("", stderr=stderr)
    _console.table(columns, rows, right=["baseline", "now", "allowed"], stderr=stderr)
    if len(changes) > len(rows):
        _console.line(f"and {len(changes) - len(rows)} more", stderr=stderr)


def _lines(document: Document) -> list[str]:
    """What takes a line each: cache, greedy samples, near ties, oracle, baseline, caveats, cost."""
    from helium_edge.report.explain import oracle_in_words

    lines = []
    checks = document["checks"]
    if checks and all(check["passed"] for check in checks):
        worst = max((check["measured"] or 0.0 for check in checks), default=0.0)
        lines.append(f"cache: {len(checks)} checks hold, difference at most {figure(worst, 2)}")
    samples = document["greedy"]
    if samples:
        equal = sum(sample["first_divergence"] is None for sample in samples)
        near = sum(sample["ambiguous"] for sample in samples)
        parts = [f"{equal} of {len(samples)} samples equal", *([f"{near} part at a near tie"] if near else [])]
        other = len(samples) - equal - near
        parts += [f"{other} at another token"] if other else []
        lines.append(f"greedy: {', '.join(parts)}")
    for name in ("L3", "L2"):
        overall = document["levels"].get(name, {}).get("overall")
        if overall and overall["ambiguous"]:
            lines.append(
                f"near ties: {overall['ambiguous']:,} disagreements where the original is undecided; "
                "`decided` counts them as agreement"
            )
            break
    oracle = oracle_in_words(document["oracle"])
    lines += [f"oracle: {oracle}"] if oracle else []
    baseline = document["baseline"]
    if baseline:
        worse, better = len(baseline["failures"]), len(baseline.get("improvements", ()))
        compared = len(baseline.get("changes", ()))
        lines.append(f"baseline: {compared} figures compared, {worse or 'none'} worse, {better or 'none'} better")
    levels = document["levels"]
    lines += [f"note: {name}: {level['caveat']}" for name, level in levels.items() if level.get("caveat")]
    cost = document["cost"]
    if cost and cost["wall"]:
        spent = ", ".join(f"{name} {duration(seconds or 0.0)}" for name, seconds in cost["forward"].items())
        cached = ", the original's logits from the cache" if cost["cached_reference"] else ""
        lines.append(
            f"cost: {duration(cost['wall'])} ({spent}; {100 * (cost['overhead'] or 0.0):.0f}% overhead{cached})"
        )
    return lines
