"""The documentation names what exists: commands, options, files, recipes, manifest fields and recipe keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
import yaml
from helium_edge.cli.main import app

from helium_edge.bundle import Manifest
from helium_edge.recipe import Recipe, parse_recipe, recipe_names

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README = (ROOT / "README.md").read_text(encoding="utf-8")

LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)")
SHELL_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DOCS_MENTION = re.compile(r"(?<!onnxruntime )\bdocs/[\w./-]*\w")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def shell_commands(text: str) -> Iterator[list[str]]:
    """Words of every command in the shell blocks of a document."""
    for block in SHELL_BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            for command in line.split("&&"):
                words = shlex.split(command.partition(" > ")[0], comments=True)
                if words:
                    yield words


def own_commands() -> list[tuple[str, list[str]]]:
    """Every `helium-edge ...` of the documents, with the document that it stands in."""
    found = []
    for path in DOCUMENTS:
        commands = shell_commands(path.read_text(encoding="utf-8"))
        found += [(name_of(path), words[1:]) for words in commands if Path(words[0]).name == "helium-edge"]
    return found


def test_documents_are_found() -> None:
    names = {name_of(path) for path in DOCUMENTS}
    assert {"README.md", "CHANGELOG.md", "docs/bundle.md", "docs/recipes.md", "docs/shapes.md"} <= names
    assert len([name for name in names if name.startswith("docs/adr/")]) >= 7


def test_links_to_files_resolve() -> None:
    broken = []
    for path in DOCUMENTS:
        targets = [target for target in LINK.findall(path.read_text(encoding="utf-8")) if "://" not in target]
        broken += [f"{name_of(path)}: {target}" for target in targets if not (path.parent / target).exists()]
    assert not broken


def test_rows_of_a_table_have_as_many_cells_as_its_heading() -> None:
    odd = []
    for path in DOCUMENTS:
        columns = 0
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            cells = len(re.findall(r"(?<!\\)\|", line)) - 1 if line.startswith("|") else 0
            columns = (columns or cells) if cells else 0
            if cells != columns:
                odd.append(f"{name_of(path)}, line {number}: {line}")
    assert not odd


def test_documents_that_code_names_exist() -> None:
    sources = [
        *(ROOT / "helium_edge").rglob("*.py"),
        *(ROOT / "cli").rglob("*.py"),
        *(ROOT / "tests").rglob("*.py"),
    ]
    named = {name for path in sources for name in DOCS_MENTION.findall(path.read_text(encoding="utf-8"))}
    assert named
    # A decision may be named by its number alone.
    broken = [name for name in named if not (ROOT / name).exists() and not list(ROOT.glob(f"{name}-*.md"))]
    assert not broken


def test_commands_are_understood() -> None:
    """Parsed as the command line would, and not run."""
    whole: Any = typer.main.get_command(app)
    wrong = []
    for document, words in own_commands():
        name, *rest = words
        try:
            command = whole.commands[name]
            while rest and rest[0] in getattr(command, "commands", {}):
                name, *rest = rest
                command = command.commands[name]
            assert command.make_context(name, rest).params
        except Exception as error:
            wrong.append(f"{document}: {shlex.join(words)}: {error!r}")
    assert not wrong


def test_every_command_is_in_the_documents() -> None:
    commands: Any = typer.main.get_command(app)
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert [name for name in commands.commands if f"helium-edge {name}" not in text] == []


def test_the_quick_start_is_two_commands() -> None:
    section = README.split("## Quick start")[1].split("\n## ")[0]
    install, tests = SHELL_BLOCK.findall(section)
    first = list(shell_commands(f"```sh\n{install}```"))
    assert [words[1] for words in first if words[0] == ".venv/bin/helium-edge"] == ["export", "parity", "generate"]
    assert first[:2] == [["python3", "-m", "venv", ".venv"], [".venv/bin/pip", "install", ".[reference]"]]
    assert len(tests.splitlines()) == 1


def test_ci_runs_the_test_command_of_the_readme() -> None:
    section = README.split("## Quick start")[1].split("\n## ")[0]
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for words in shell_commands(f"```sh\n{SHELL_BLOCK.findall(section)[1]}```"):
        program = Path(words[0]).name
        assert f'"$bin/{program}" {shlex.join(words[1:])}\n' in script


def test_recipes_of_the_readme_are_those_that_ship() -> None:
    section = README.split("## Recipes")[1].split("\n## ")[0]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", section, re.MULTILINE)) == recipe_names()


# -- recipes.md


def annotated_recipe() -> dict[str, Any]:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    block = text.split("```yaml\n")[1].split("```")[0]
    recipe: dict[str, Any] = yaml.safe_load(block)
    assert parse_recipe(block, where="docs/recipes.md").name == recipe["name"]
    return recipe


def keys_of(data: Any, prefix: str = "") -> set[str]:
    if isinstance(data, list):
        return {key for item in data for key in keys_of(item, prefix)}
    if not isinstance(data, dict):
        return set()
    found = {f"{prefix}{key}" for key in data}
    return found.union(*(keys_of(value, f"{prefix}{key}.") for key, value in data.items()))


def test_the_annotated_recipe_has_every_key() -> None:
    recipe = annotated_recipe()
    full = Recipe.model_validate_json(parse_recipe(yaml.safe_dump(recipe), where="").canonical_json())
    everything = keys_of(full.model_dump(mode="json"))
    # The long spelling of a fallback is that of a scheme.
    missing = {key for key in everything - keys_of(recipe) if ".fallback." not in key}
    assert not missing


# -- bundle.md


def test_bundle_md_names_every_field_of_the_manifest() -> None:
    text = (ROOT / "docs" / "bundle.md").read_text(encoding="utf-8").split("## The manifest, field by field")[1]
    words = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", text))))
    schema = Manifest.model_json_schema()
    models = [schema, *schema["$defs"].values()]
    missing = {name for model in models for name in model.get("properties", {}) if name not in words}
    assert not missing
