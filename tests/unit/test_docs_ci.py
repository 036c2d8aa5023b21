"""The workflow of docs/ci.md is one, and its commands are ours."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from helium_edge.cli.main import app

TEXT = (Path(__file__).parents[2] / "docs" / "ci.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def workflow() -> Any:
    return yaml.safe_load(TEXT.split("```yaml\n")[1].split("```")[0])


def steps(workflow: Any) -> list[Any]:
    found: list[Any] = workflow["jobs"]["parity"]["steps"]
    return found


def test_it_has_what_a_workflow_needs(workflow: Any) -> None:
    # YAML 1.1 reads the key `on` as true.
    assert set(workflow) == {"name", True, "jobs"}
    for job in workflow["jobs"].values():
        assert {"runs-on", "steps", "timeout-minutes"} <= set(job)
        for step in job["steps"]:
            assert ("run" in step) is not ("uses" in step), step
            assert set(step) <= {"name", "run", "uses", "with", "if"}, step
            if "uses" in step:
                assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step["uses"])


def test_its_commands_are_understood(workflow: Any) -> None:
    group: Any = typer.main.get_command(app)
    seen = []
    for step in steps(workflow):
        words = shlex.split(step.get("run", "").split(" > ")[0])
        if words[:1] == ["helium-edge"]:
            seen.append(words[1])
            group.commands[words[1]].make_context(words[1], words[2:])
    assert seen == ["export", "parity"]


def test_what_a_step_writes_is_uploaded_even_after_a_failure(workflow: Any) -> None:
    parity = next(step["run"] for step in steps(workflow) if step.get("name") == "Parity")
    written = set(re.findall(r"parity\.\w+", parity))
    later = [step for step in steps(workflow) if step.get("if") == "${{ !cancelled() }}"]
    uploaded = {name for step in later for name in re.findall(r"parity\.\w+", str(step["with"]))}
    assert written == uploaded == {"parity.html", "parity.xml", "parity.json"}


def test_the_cache_is_where_the_harness_looks(workflow: Any) -> None:
    source = (Path(__file__).parents[2] / "helium_edge" / "user_cache.py").read_text(encoding="utf-8")
    names = {name for name in workflow["jobs"]["parity"]["env"] if name.startswith("HELIUM_EDGE")}
    assert names == {"HELIUM_EDGE_CACHE"}
    assert '"HELIUM_EDGE_CACHE"' in source
    cache = next(step for step in steps(workflow) if step.get("uses", "").startswith("actions/cache"))
    assert cache["with"]["path"] == "${{ env.HELIUM_EDGE_CACHE }}"
