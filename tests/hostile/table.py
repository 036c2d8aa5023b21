"""docs/hostile_input.md: the catalogue in words. `pytest tests/hostile/test_catalogue.py --update-catalogue`
rewrites it when every case has passed."""

from __future__ import annotations

from pathlib import Path

from tests.hostile import (
    catalogue_bundle,
    catalogue_chat,
    catalogue_index,
    catalogue_output,
    catalogue_recipes,
    catalogue_texts,
    catalogue_weights,
)
from tests.hostile.case import CATALOGUE, FULL, INPUT, OK, PARITY, USAGE, Case

DOCUMENT = Path(__file__).parents[2] / "docs" / "hostile_input.md"
SOURCES = (
    catalogue_weights,
    catalogue_index,
    catalogue_texts,
    catalogue_recipes,
    catalogue_output,
    catalogue_bundle,
    catalogue_chat,
)

OUTCOMES = {OK: "accepted", USAGE: "refused (2)", INPUT: "refused (3)", PARITY: "refused (4)", FULL: "refused (6)"}

HEAD = """# Hostile and broken input

What helium-edge does with files that are damaged, made by somebody of bad will, or only odd, and with disks and
processes that fail. Every row is a test; this file is written by the test run
(`pytest tests/hostile/test_catalogue.py --update-catalogue`) and a test fails when it is out of date.

A refusal is one line on stderr that names the file, and the tensor or key where there is one; a second line may
say what to do. The number is the exit code. Each refusal below is made within a second of processor time beyond
the start of the interpreter, with at most 1.5 times the memory that the process held before, never with a
traceback, and leaves every folder as it was.

Of every kind of file, inputs damaged at random are tried as well, and generated ones; a write, a sync, a rename or
a new folder that fails, or a kill, at any operation of an export. The tests take a sample; the long runs are:

```sh
pytest tests/hostile/test_mutations.py --hostile-inputs 5000
pytest tests/hostile/test_generated.py --hostile-examples 2000
pytest -m long tests/hostile/test_programs.py --changed-programs 2000
pytest tests/hostile/test_kill.py --kill-points 200
pytest tests/hostile/test_faults.py --fault-points 1000
```
"""


def render() -> str:
    """The whole document."""
    groups = sorted({row.group for row in (*CATALOGUE.cases, *CATALOGUE.elsewhere)})
    return HEAD + "".join(_section(group) for group in groups)


def _section(group: str) -> str:
    rows = [(case.name, _outcome(case)) for case in CATALOGUE.cases if case.group == group]
    rows += [
        (row.name, f"{row.outcome} (`{row.test.split('::')[1]}`)")
        for row in CATALOGUE.elsewhere
        if row.group == group
    ]
    lines = "".join(f"| {_cell(name)} | {_cell(outcome)} |\n" for name, outcome in rows)
    return f"\n## {group}\n\n| case | outcome |\n|---|---|\n{lines}"


def _outcome(case: Case) -> str:
    says = ", ".join(f"`{text}`" for text in case.says if text.strip())
    message = f": {says}" if says else ""
    note = f"; {case.note}" if case.note else ""
    return f"{OUTCOMES[case.code]}{message}{note}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
