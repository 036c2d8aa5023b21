"""The parity document as Markdown: what a pull request's comment or a job's summary holds."""

from __future__ import annotations

import re
from typing import Any

from helium_edge.parity.document import Document, all_levels
from helium_edge.report import numbers
from helium_edge.report.explain import explain

_ESCAPED = re.compile(r"([\\`*_\[\]<>|#])")


def render_markdown(document: Document) -> str:
    """A verdict, what failed, and one table; GitHub and GitLab show it."""
    verdict = explain(document)
    subject = document["subject"]
    named = [str(subject[key]) for key in ("bundle", "recipe", "runtime") if subject.get(key)]
    sign = "\u2705" if verdict.passed else "\u274c"
    lines = [
        f"### {sign} {verdict.headline}",
        "",
        " \u00b7 ".join(map(plain_text, named)),
        "",
        verdict.summary,
        "",
    ]
    lines += [
        f"- **{finding.where}** {plain_text(finding.title)} {plain_text(finding.remedy)}"
        for finding in verdict.findings
    ]
    lines += [f"- {plain_text(remark)}" for remark in verdict.remarks]
    lines += [
        "",
        "| level | verdict | mean KLD | same best token | PPL ratio | largest error |",
        "|---|---|--:|--:|--:|--:|",
    ]
    lines += [_row(name, level) for name, level in all_levels(document).items()]
    failed = [check["name"] for check in document["checks"] if not check["passed"]]
    if document["checks"]:
        held = f"{len(document['checks']) - len(failed)} of {len(document['checks'])} cache checks hold"
        lines += ["", f"{held}{': not ' if failed else ''}{plain_text(', '.join(failed))}"]
    return "\n".join(lines) + "\n"


def _row(name: str, level: Any) -> str:
    state = "holds" if level["passed"] else "**fails**"
    if name == "L0":
        equal = level["tensors"] - len(level["differences"])
        return f"| L0 | {state} | {equal} of {level['tensors']} tensors equal | | | |"
    found = level["overall"]
    cells = [
        _both(numbers.error(found["kld_mean"], found["kld_mean_se"])),
        _both(numbers.percent(found["top1"], found["top1_se"])),
        _both(numbers.error(found["ppl_ratio"], found["ppl_ratio_se"])),
        numbers.figure(found["max_logit_error"], 2),
    ]
    return f"| {name} | {state} | {' | '.join(cells)} |"


def _both(pair: tuple[str, str]) -> str:
    return f"{pair[0]} \u00b1 {pair[1]}" if pair[1] else pair[0]


def plain_text(text: str) -> str:
    """Text that Markdown takes for text."""
    return _ESCAPED.sub(r"\\\1", " ".join(text.split()))
