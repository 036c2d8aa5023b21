"""Every case of the catalogue, run as a user would; docs/hostile_input.md is the same list in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from helium_edge.bundle import verify_bundle
from tests.hostile import catalogue_bundle, table
from tests.hostile.case import CATALOGUE, OK, Case, Sandbox, snapshot
from tests.hostile.client import Commands

CPU_SECONDS = 1.0
"""Of the processor, beyond the start of the interpreter, for a refusal."""

MEMORY_GROWTH = 1.5
"""Peak over what the process held before the command."""

ROOT = Path(__file__).parents[2]


def identity(case: Case) -> str:
    return f"{case.group[0]}-{case.name}"


@pytest.mark.parametrize("case", CATALOGUE.cases, ids=identity)
def test_case(case: Case, commands: Commands, tmp_path: Path) -> None:
    box = Sandbox(tmp_path)
    argv = case.build(box) or box.export()
    before = snapshot(tmp_path)
    ending = commands.run(argv, tmp_path, **box.settings)
    assert ending.problems() == []
    assert ending.code == case.code, ending.stderr
    after = snapshot(tmp_path)
    if case.code == OK:
        if argv[0] == "export":
            verify_bundle(tmp_path / argv[argv.index("-o") + 1])
        before, after = (
            {k: v for k, v in facts.items() if "out" not in k.split("/")} for facts in (before, after)
        )
    else:
        missing = [text for text in case.says if text not in ending.error]
        assert missing == [], ending.error
        assert ending.cpu_seconds < CPU_SECONDS
        if case.group == catalogue_bundle.BUNDLES and argv[0] == "verify":
            # What does not verify is not run either.
            ending = commands.run(catalogue_bundle.GENERATE, tmp_path)
            assert (ending.code, ending.stdout, ending.problems()) == (case.code, "", [])
    assert after == before
    assert ending.peak_bytes < MEMORY_GROWTH * ending.base_bytes


def test_no_row_without_a_test() -> None:
    for row in CATALOGUE.elsewhere:
        file, _, function = row.test.partition("::")
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), row.test
    names = [(row.group, row.name) for row in (*CATALOGUE.cases, *CATALOGUE.elsewhere)]
    assert len(set(names)) == len(names)


def test_the_document_is_up_to_date(request: pytest.FixtureRequest) -> None:
    """Runs last, so that it is rewritten only when every case has passed."""
    if request.config.getoption("--update-catalogue") and request.session.testsfailed == 0:
        table.DOCUMENT.write_text(table.render(), encoding="utf-8")
    assert table.DOCUMENT.read_text(encoding="utf-8") == table.render(), (
        "pytest tests/hostile/test_catalogue.py --update-catalogue"
    )
