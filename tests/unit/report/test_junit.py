from __future__ import annotations

import copy
import io
from typing import Any

import junitparser
import pytest

from helium_edge.parity.baseline import compare_with_baseline
from helium_edge.report import render_junit
from tests.unit.report.documents import failing, over_budget, passing, with_failures


def read(document: Any) -> dict[str, list[Any]]:
    """The cases of each suite, by a reader that is not ours."""
    suites = junitparser.JUnitXml.fromroot(
        junitparser.junitparser.etree.fromstring(render_junit(document).encode())
    )
    found = {suite.name: list(suite) for suite in suites}
    for suite in suites:
        assert suite.tests == len(found[suite.name])
        assert suite.failures == len(failed(found[suite.name]))
    assert suites.tests == sum(map(len, found.values()))
    return found


def failed(cases: list[Any]) -> list[str]:
    return [case.name for case in cases if not case.is_passed]


def test_everything_that_holds_is_a_passed_case() -> None:
    suites = read(passing())
    levels = ["parity.L0", "parity.L1", "parity.L2", "parity.L3", "parity.L3 arm64"]
    assert list(suites) == [*levels, "parity.cache", "parity.greedy"]
    assert [case.name for case in suites["parity.L3"]] == [
        "nonfinite",
        "mean_kld",
        "top1",
        "ppl_ratio",
        "kld_beyond_l2",
    ]
    assert len(suites["parity.cache"]) == len(passing()["checks"])
    assert not [name for cases in suites.values() for name in failed(cases)]


def test_failures_are_where_they_belong_and_say_why() -> None:
    suites = read(failing())
    assert failed(suites["parity.L1"]) == ["median_error", "worst_error"]
    assert failed(suites["parity.cache"]) == ["prefill equals decode"]
    assert not failed(suites["parity.L2"])
    message = suites["parity.L1"][1].result[0].message
    assert message == "median_error 0.0632278, at most 0.0001 is allowed"


def test_each_tensor_that_differs_is_a_case() -> None:
    document = passing()
    document["levels"]["L0"] |= {
        "passed": False,
        "failures": ["a.weight: 3 codes differ", "b.weight: absent"],
        "differences": [
            {"tensor": "a.weight", "detail": "3 codes differ"},
            {"tensor": "b.weight", "detail": "absent"},
        ],
    }
    cases = read(with_failures(document))["parity.L0"]
    assert failed(cases) == ["a.weight", "b.weight"]
    assert cases[-1].name == "85 of 87 tensors equal the store"


def test_a_regression_is_a_failing_case() -> None:
    document = passing()
    document["levels"]["L3"]["overall"]["kld_mean"] *= 1.3
    document["baseline"] = compare_with_baseline(document, passing(), source="base.json").document().to_json()
    assert len(failed(read(with_failures(document))["parity.baseline"])) == 1


def test_a_greedy_sample_never_fails_and_keeps_both_texts() -> None:
    cases = read(passing())["parity.greedy"]
    assert not failed(cases)
    assert "parts at new token 5, margin 0.214" in cases[3].system_out


@pytest.mark.parametrize("make", [passing, failing, over_budget])
def test_a_case_fails_exactly_when_the_document_does(make: Any) -> None:
    document = make()
    fails = [name for cases in read(document).values() for name in failed(cases)]
    assert bool(fails) is not document["passed"]


def test_what_nobody_foresaw_fails_too() -> None:
    document = {**passing(), "passed": False, "failures": ["arm64: worst 0.2 is above 0.1"]}
    assert failed(read(document)["parity.other"]) == ["arm64: worst 0.2 is above 0.1"]


def test_environment_and_figures_are_properties() -> None:
    root = junitparser.junitparser.etree.fromstring(render_junit(passing()).encode())
    suite = next(found for found in root if found.get("name") == "parity.L3")
    properties = {entry.get("name"): entry.get("value") for entry in suite.iter("property")}
    assert properties["environment.onnxruntime"] == "1.28.0"
    assert properties["subject.recipe"] == "onnx-int4"
    assert float(properties["kld_mean"]) == pytest.approx(0.03643, rel=1e-3)


def test_text_that_xml_cannot_carry_is_replaced() -> None:
    document = copy.deepcopy(passing())
    document["greedy"][0]["candidate"] = "a\x00\x1b]0;x\ud800<&>\"'"
    case = read(document)["parity.greedy"][0]
    assert case.system_out.endswith("a\ufffd\ufffd]0;x\ufffd<&>\"'")
    assert io.StringIO(render_junit(document)).readline() == '<?xml version="1.0" encoding="UTF-8"?>\n'
