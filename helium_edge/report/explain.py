"""What a parity document means for somebody who decides about a release: a verdict in words, and what to do.

The reading of the levels is that of docs/parity.md: a failure of the graph is a bug whatever quantization costs; a
failure that a deeper one explains is a consequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from helium_edge.parity.document import Document, all_levels, name_elsewhere

Severity = Literal["bug", "cost", "regression", "consequence"]


@dataclass(frozen=True)
class Finding:
    """One thing that does not hold.

    Attributes:
        where: A level, `cache` or `baseline`.
        severity: A `bug` of the artifact, its `cost` in accuracy, a `regression` since the baseline, or the
            `consequence` of another finding.
        title: What is wrong, in one sentence.
        meaning: What that says about the artifact.
        remedy: What to do.
        evidence: The lines of the document.
        command: Words of a command that helps; empty where none does.
    """

    where: str
    severity: Severity
    title: str
    meaning: str
    remedy: str
    evidence: tuple[str, ...]
    command: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """The whole, in words.

    Attributes:
        passed: Whether everything holds.
        headline: One sentence.
        summary: A few more for those who read on.
        findings: What does not hold, the root cause first.
        remarks: What a reader must know of a run that passed or failed.
    """

    passed: bool
    headline: str
    summary: str
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]


def explain(document: Document) -> Verdict:
    """Say what a document means."""
    findings = tuple(_findings(document))
    if document["passed"]:
        levels = document["levels"]
        complete = {"L1", "L3"} <= set(levels)
        headline = "This export can be released." if complete else "What was checked holds."
        return Verdict(True, headline, _cost_in_words(document), (), tuple(_remarks(document)))
    kinds = {finding.severity for finding in findings}
    if "bug" in kinds:
        headline = "Do not release: the export is not what its weights say."
    elif "cost" in kinds:
        headline = "Over budget: the graph is right, and quantization costs more than the recipe allows."
        if "L1" not in document["levels"]:
            headline = "Over budget: the export differs from the original by more than the recipe allows."
    elif "regression" in kinds:
        headline = "Within its limits, but worse than the baseline."
    else:
        headline = "Do not release before this is understood."
    return Verdict(False, headline, _cost_in_words(document), findings, tuple(_remarks(document)))


def oracle_in_words(oracle: Any) -> str:
    """What a second oracle says of the first, in one sentence; empty where there is none."""
    if not oracle or "agrees" not in oracle:
        return ""
    name, tokens = oracle.get("name", "optimum"), oracle["tokens"]
    error = "not finite" if oracle["max_logit_error"] is None else f"{oracle['max_logit_error']:.2g}"
    found = f"largest logit error {error}, {oracle['tolerance']:.2g} allowed, over {tokens:,} tokens"
    candidate = oracle.get("candidate")
    if candidate and candidate["kld_mean"] is not None:
        found += f"; against it this export has a mean KLD of {candidate['kld_mean']:.2g}"
    if oracle["agrees"]:
        return f"The stock export of {name} agrees with transformers: {found}."
    where = f"first in window {oracle['first_window']} at position {oracle['first_position']}"
    return (
        f"The stock export of {name} differs from transformers itself, {where} ({found}): "
        "a difference between it and this export proves nothing."
    )


def _findings(document: Document) -> Iterator[Finding]:
    levels = document["levels"]
    bundle = str(document["subject"].get("bundle", "BUNDLE"))
    failed = {name for name, level in levels.items() if not level["passed"]}
    if "L0" in failed:
        yield _store(levels["L0"])
    if "L1" in failed:
        yield _graph(document, bundle)
    checks = [check for check in document["checks"] if not check["passed"]]
    if checks:
        yield _cache(checks)
    bug = bool(failed & {"L0", "L1"} or checks)
    if "L2" in failed:
        yield _budget(document, levels["L2"])
    if "L3" in failed:
        yield _end_to_end(levels, explained=bug or "L2" in failed)
    for processor, level in document.get("elsewhere", {}).items():
        if not level["passed"]:
            yield _elsewhere(processor, level, explained="L2" in failed)
    baseline = document["baseline"]
    if baseline and baseline["failures"]:
        yield Finding(
            "baseline",
            "regression",
            f"{_count(baseline['failures'], 'figure')} got worse than in the baseline.",
            "The change is larger than the noise of the text explains.",
            "Find the change that did it. If it is wanted, accept the new figures with --update-baseline.",
            tuple(baseline["failures"]),
        )
    known = {line for finding_lines in _own_lines(document) for line in finding_lines}
    rest = tuple(line for line in document["failures"] if line not in known)
    if rest:
        yield Finding(
            "other",
            "bug",
            "A further comparison failed.",
            "It is none of the levels: see the lines.",
            "Read them in order; docs/parity.md names every part of the document.",
            rest,
        )


def _own_lines(document: Document) -> Iterator[Sequence[str]]:
    """The lines of `failures` that belong to parts which are explained."""
    for name, level in all_levels(document).items():
        yield [f"{name} {line}" for line in level["failures"]]
    yield [f"cache: {check['name']}: {check['detail']}" for check in document["checks"] if not check["passed"]]
    yield (document["baseline"] or {}).get("failures", [])


def _store(level: Any) -> Finding:
    return Finding(
        "L0",
        "bug",
        f"{_count(level['differences'], 'tensor')} of the artifact differ from the quantized weights.",
        "The file does not hold the integers that quantization chose: packing or writing is wrong.",
        "Export again. If it stays, it is a bug of the exporter: report it with the names below.",
        tuple(level["failures"]),
    )


def _graph(document: Document, bundle: str) -> Finding:
    guilty = (document["layers"] or {}).get("guilty")
    if guilty:
        where = f"layer {guilty['layer']}, {guilty['op']}" if guilty["layer"] is not None else guilty["op"]
        remedy = f"Look at {where}: the error begins there; everything behind only passes it on."
        command: tuple[str, ...] = ()
    else:
        remedy = "Find the layer where the error begins: --layers compares the graph op by op."
        command = ("parity", bundle, "--layers")
    return Finding(
        "L1",
        "bug",
        "The exported graph computes something else than its weights say.",
        "A bug of the graph, of a kernel or of the cache. No other recipe and no looser limit mends it.",
        remedy,
        tuple(document["levels"]["L1"]["failures"]),
        command,
    )


def _cache(checks: Sequence[Any]) -> Finding:
    return Finding(
        "cache",
        "bug",
        f"{_count(checks, 'check')} of the cache failed.",
        "What the model answers depends on how its input was cut up, or on what ran before.",
        "A host that follows docs/bundle.md would get wrong text: look for a bug of the graph or of the runner.",
        tuple(f"{check['name']}: {check['detail']}" for check in checks),
    )


def _budget(document: Document, level: Any) -> Finding:
    recipe = document["subject"].get("recipe", "the recipe")
    return Finding(
        "L2",
        "cost",
        f"The recipe {recipe} costs more accuracy than it allows.",
        "Rounding the weights alone does this, before any graph is built: every target would show it.",
        "Choose a recipe with more bits or smaller groups, keep sensitive layers at int8, or raise the limit "
        "in the recipe, knowing what it costs.",
        tuple(level["failures"]),
        ("recipes",),
    )


def _end_to_end(levels: Any, *, explained: bool) -> Finding:
    if explained:
        return Finding(
            "L3",
            "consequence",
            "The user would notice.",
            "The export as a whole is outside its limits, as the findings above let expect.",
            "Mend those first, and run again.",
            tuple(levels["L3"]["failures"]),
        )
    if {"L1", "L2"} <= set(levels):
        return Finding(
            "L3",
            "bug",
            "Graph and weights are right each, and their whole is not.",
            "The two sides do not read the same: beginning of text, positions or mask differ, or the checkpoint "
            "is another one.",
            "Compare the token ids of both sides, and the caveat of the level, if there is one.",
            tuple(levels["L3"]["failures"]),
        )
    return Finding(
        "L3",
        "cost",
        "The export differs from the original by more than its limits.",
        "Either the recipe costs this much, or the graph is wrong: the levels that tell them apart were not run.",
        "Run all levels.",
        tuple(levels["L3"]["failures"]),
    )


def _elsewhere(processor: str, level: Any, *, explained: bool) -> Finding:
    return Finding(
        name_elsewhere(processor),
        "consequence" if explained else "cost",
        f"On {processor} the export costs more accuracy than the recipe allows.",
        "The kernels there round activations otherwise than here: a few large channels of a token widen the steps "
        "of all its others.",
        "Mend the weights first, and run again."
        if explained
        else "Let the method calibrated fold large channels into the weights, or choose weights with zero points, "
        "whose kernels round by block on every processor.",
        tuple(level["failures"]),
        ("recipes",),
    )


def _cost_in_words(document: Document) -> str:
    """One or two sentences on what the user gets."""
    level = document["levels"].get("L3") or document["levels"].get("L2")
    if level is None:
        return ""
    overall = level["overall"]
    top1, ratio = overall["top1"], overall["ppl_ratio"]
    if top1 is None or ratio is None or overall["nonfinite"]:
        return f"{overall['nonfinite']:,} of {overall['tokens']:,} answers are NaN or infinite."
    near = f" ({100 * overall['top1_decided']:.1f} % without near ties)" if overall["ambiguous"] else ""
    change = 100 * (ratio - 1)
    surprise = (
        f"{abs(change):.1f} % {'more' if change > 0 else 'less'} surprised by" if abs(change) >= 0.05 else ""
    )
    surprised = f"is {surprise}" if surprise else "is as surprised by"
    return (
        f"Over {overall['tokens']:,} tokens it chooses the same next token as the original in {100 * top1:.1f} % "
        f"of places{near}, and {surprised} the text (perplexity)."
    )


def _remarks(document: Document) -> Iterator[str]:
    levels = document["levels"]
    missing = [name for name in ("L0", "L1", "L2", "L3") if name not in levels]
    if missing:
        yield f"Not run: {', '.join(missing)}."
    for name in ("L1", "L2", "L3"):
        if name in levels and levels[name]["caveat"]:
            yield f"{name}: {levels[name]['caveat']}."
    for name in ("L3", "L2"):
        if name in levels:
            yield from _languages(levels[name])
            break
    if document["oracle"]:
        yield oracle_in_words(document["oracle"]) or "A second oracle was asked: see the JSON document."
    improved = (document["baseline"] or {}).get("improvements", [])
    if improved:
        yield f"{_count(improved, 'figure')} better than the baseline: --update-baseline keeps that."


def _languages(level: Any) -> Iterator[str]:
    """The language that is worse than the whole by more than three standard errors."""
    overall = level["overall"]["kld_mean"]
    found = level["languages"]
    if overall is None or len(found) < 2:
        return
    worst = max(found, key=lambda name: found[name]["kld_mean"] or 0.0)
    mean, error = found[worst]["kld_mean"], found[worst]["kld_mean_se"]
    if mean is not None and error is not None and mean - overall > 3 * error:
        yield f"{worst} suffers most: mean KLD {mean:.3g} against {overall:.3g} over all languages."


def _count(items: Sequence[Any], noun: str) -> str:
    return f"{len(items)} {noun}{'s' * (len(items) != 1)}"
