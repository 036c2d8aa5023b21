from __future__ import annotations

from typing import Any

import pytest
import typer
from helium_edge.cli.main import app

from helium_edge.parity.baseline import compare_with_baseline
from helium_edge.report import explain
from tests.unit.report.documents import failing, over_budget, passing, with_failures


def kinds(document: Any) -> list[tuple[str, str]]:
    return [(finding.where, finding.severity) for finding in explain(document).findings]


def test_a_run_that_holds_is_releasable() -> None:
    verdict = explain(passing())
    assert verdict.passed
    assert verdict.headline == "This export can be released."
    assert "86.3 %" in verdict.summary
    assert verdict.findings == ()


def test_a_short_run_promises_no_more_than_it_saw() -> None:
    document = passing()
    del document["levels"]["L1"]
    verdict = explain(document)
    assert verdict.headline == "What was checked holds."
    assert "Not run: L1." in verdict.remarks


def test_a_bug_comes_first_and_names_where_it_begins() -> None:
    verdict = explain(failing())
    assert verdict.headline.startswith("Do not release")
    assert kinds(failing()) == [("L1", "bug"), ("cache", "bug"), ("L3", "consequence")]
    assert "layer 3, k_proj" in verdict.findings[0].remedy
    assert any("CoreML interpreter" in remark for remark in verdict.remarks)


def test_without_a_localisation_the_remedy_is_to_make_one() -> None:
    finding = explain(with_failures({**failing(), "layers": None})).findings[0]
    assert finding.command[:2] == ("parity", "tiny")


def test_too_dear_a_recipe_is_no_bug() -> None:
    assert kinds(over_budget()) == [("L2", "cost"), ("L3", "consequence")]
    assert explain(over_budget()).headline.startswith("Over budget")


def test_another_processor_may_cost_too_much_alone() -> None:
    document = passing()
    document["elsewhere"]["arm64"] = over_budget()["levels"]["L3"]
    assert kinds(with_failures(document)) == [("L3 arm64", "cost")]
    assert explain(with_failures(document)).headline.startswith("Over budget")
    document["levels"]["L2"] = over_budget()["levels"]["L2"]
    assert kinds(with_failures(document)) == [("L2", "cost"), ("L3 arm64", "consequence")]


def test_a_sum_that_is_worse_than_its_parts_is_a_bug() -> None:
    document = passing()
    document["levels"]["L3"] = failing()["levels"]["L3"]
    assert kinds(with_failures(document)) == [("L3", "bug")]


def test_a_lone_l3_cannot_tell_which() -> None:
    document = failing()
    del document["levels"]["L0"], document["levels"]["L1"], document["levels"]["L2"]
    assert kinds(with_failures({**document, "checks": []})) == [("L3", "cost")]


def test_a_regression_within_the_limits_is_called_that() -> None:
    document = passing()
    document["levels"]["L3"]["overall"]["kld_mean"] *= 1.3
    document["baseline"] = compare_with_baseline(document, passing(), source="base.json").document().to_json()
    assert kinds(with_failures(document)) == [("baseline", "regression")]


def test_what_nobody_foresaw_is_still_told() -> None:
    document = {**passing(), "passed": False, "failures": ["arm64: worst 0.2 is above 0.1"]}
    assert kinds(document) == [("other", "bug")]
    assert explain(document).findings[0].evidence == ("arm64: worst 0.2 is above 0.1",)


def test_a_language_that_pays_for_all_is_named() -> None:
    document = passing()
    document["levels"]["L3"]["languages"]["it"]["kld_mean"] = 0.09
    assert any(remark.startswith("it suffers most") for remark in explain(document).remarks)
    assert not any("suffers" in remark for remark in explain(passing()).remarks)


@pytest.mark.parametrize(("agrees", "words"), [(True, "agrees with transformers"), (False, "proves nothing")])
def test_a_second_oracle_is_told_of(agrees: bool, words: str) -> None:
    place = None if agrees else 3
    oracle = {"tokens": 4092, "max_logit_error": 1.3e-5, "top1": 1.0, "tolerance": 1e-3, "agrees": agrees,
              "first_window": place, "first_position": place}  # fmt: skip
    assert any(words in remark for remark in explain({**passing(), "oracle": oracle}).remarks)


def test_answers_that_are_no_numbers_are_told_as_that() -> None:
    document = passing()
    document["levels"]["L3"]["overall"] |= {"nonfinite": 7, "ppl_ratio": None, "kld_mean": None}
    assert explain(document).summary == "7 of 4,092 answers are NaN or infinite."


def test_commands_that_are_advised_exist() -> None:
    group: Any = typer.main.get_command(app)
    for document in (with_failures({**failing(), "layers": None}), over_budget()):
        for finding in explain(document).findings:
            if finding.command:
                name, *rest = finding.command
                group.commands[name].make_context(name, list(rest))
