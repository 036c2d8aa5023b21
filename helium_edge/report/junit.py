"""JUnit XML of a parity document: each gate, each check of the cache and each sample is a test case."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from helium_edge.parity.document import Document, all_levels

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One test case: passed where there is no failure."""

    name: str
    failure: str | None = None
    detail: str = ""
    output: str = ""


def render_junit(document: Document) -> str:
    """The document as JUnit XML, in the form that Jenkins, GitLab and the GitHub reporters read.

    A failing document has at least one failing case, whatever failed.
    """
    suites = list(_suites(document))
    told = sum(case.failure is not None for _, cases, _ in suites for case in cases)
    if not document["passed"] and not told:
        suites.append(("other", [Case(line, line) for line in document["failures"] or ["failed"]], {}))
    title = f"parity of {document['subject'].get('bundle', 'a bundle')}"
    told_of = [(name, cases, {**dict(_environment(document)), **figures}) for name, cases, figures in suites]
    return render_suites("parity", title, told_of, (document["cost"] or {}).get("wall"))


def render_suites(
    kind: str, title: str, suites: Sequence[tuple[str, list[Case], Mapping[str, Any]]], seconds: float | None
) -> str:
    """Suites of test cases as JUnit XML.

    Args:
        kind: What they are of: "parity".
        title: Of all of them.
        suites: Name, cases and properties of each.
        seconds: That all of it took; None where nobody measured.
    """
    root = ET.Element("testsuites", name=_clean(title))
    for name, cases, properties in suites:
        suite = ET.SubElement(root, "testsuite", {"name": f"{kind}.{name}", **_counts(cases), "time": "0"})
        holder = ET.SubElement(suite, "properties")
        for key, value in properties.items():
            ET.SubElement(holder, "property", name=_clean(key), value=_clean(str(value)))
        for case in cases:
            _add(suite, kind, name, case)
    everything = [case for _, cases, _ in suites for case in cases]
    root.attrib |= {**_counts(everything), "time": "0" if seconds is None else f"{seconds:.3f}"}
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suites(document: Document) -> Iterator[tuple[str, list[Case], dict[str, Any]]]:
    for name, level in all_levels(document).items():
        if name == "L0":
            yield name, list(_store(level)), {}
        else:
            yield name, [_gate(gate) for gate in level["gates"] if gate["limit"] is not None], _figures(level)
    if document["checks"]:
        yield "cache", [_check(check) for check in document["checks"]], {}
    if document["greedy"]:
        yield "greedy", [_sample(number, found) for number, found in enumerate(document["greedy"], 1)], {}
    if document["baseline"]:
        yield "baseline", list(_baseline(document["baseline"])), {}


def _store(level: Any) -> Iterator[Case]:
    for found in level["differences"]:
        yield Case(found["tensor"], found["detail"])
    equal = level["tensors"] - len(level["differences"])
    yield Case(f"{equal} of {level['tensors']} tensors equal the store")


def _gate(gate: Any) -> Case:
    measured = "not finite" if gate["measured"] is None else f"{gate['measured']:.6g}"
    error = f" +- {gate['standard_error']:.2g}" if gate["standard_error"] else ""
    side = "at most" if gate["bound"] == "max" else "at least"
    text = f"{gate['name']} {measured}{error}, {side} {gate['limit']:g} is allowed"
    return Case(gate["name"], text if gate["passed"] is False else None, output=text)


def _check(check: Any) -> Case:
    limit = "" if check["limit"] is None else f", at most {check['limit']:g} is allowed"
    measured = "not finite" if check["measured"] is None else f"{check['measured']:.3g}"
    text = f"relative difference {measured}{limit}"
    detail = check["detail"]
    return Case(check["name"], None if check["passed"] else detail or text, text, f"{detail}: {text}")


def _sample(number: int, sample: Any) -> Case:
    """Never a failure: a quantized model may take another turn. The text is kept for whoever reads the results."""
    at = sample["first_divergence"]
    found = "equal" if at is None else f"parts at new token {at}, margin {sample['margin']}"
    near = ", a near tie" if sample["ambiguous"] else ""
    texts = f"original: {sample['prompt']}{sample['reference']}\nexport: {sample['prompt']}{sample['candidate']}"
    return Case(f"{number}. {sample['language']}: {sample['prompt'][:40]}", output=f"{found}{near}\n{texts}")


def _baseline(baseline: Any) -> Iterator[Case]:
    failures = baseline["failures"]
    for line in failures:
        yield Case(line.removeprefix("baseline: "), line)
    compared = len(baseline.get("changes", ()))
    yield Case(f"{max(0, compared - len(failures))} figures no worse than the baseline")


def _figures(level: Any) -> dict[str, Any]:
    """Figures without a limit of their own, so that a dashboard can draw them."""
    return {name: value for name, value in level["overall"].items() if value is not None}


def _environment(document: Document) -> Iterator[tuple[str, Any]]:
    for part in ("subject", "environment", "text"):
        for name, value in document[part].items():
            if isinstance(value, (str, int, float)):
                yield f"{part}.{name}", value


def _counts(cases: list[Case]) -> dict[str, str]:
    failures = sum(case.failure is not None for case in cases)
    return {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "skipped": "0"}


def _add(suite: ET.Element, kind: str, name: str, case: Case) -> None:
    element = ET.SubElement(suite, "testcase", classname=f"{kind}.{name}", name=_clean(case.name), time="0")
    if case.failure is not None:
        failure = ET.SubElement(element, "failure", type=kind, message=_clean(case.failure))
        failure.text = _clean(case.detail or case.failure)
    if case.output:
        ET.SubElement(element, "system-out").text = _clean(case.output)


def _clean(text: str) -> str:
    """Text without the characters that XML cannot carry: a model may write any."""
    return _NOT_XML.sub("\ufffd", text)
