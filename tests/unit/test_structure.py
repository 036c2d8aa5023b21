"""The rules of the repository that no linter knows."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import signal
import subprocess
from pathlib import Path

import pytest
from helium_edge.cli.main import EXIT_BROKEN_PIPE

from helium_edge import errors
from helium_edge.config import ModelConfig
from helium_edge.quant import plan_weights
from helium_edge.recipe import parse_recipe, recipe_names

ROOT = Path(__file__).parents[2]
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_FILE_BYTES = 16 << 20

PACKAGE_FOLDERS = {
    "helium_edge": "helium_edge",
    "cli": "helium_edge.cli",
    "recipes": "helium_edge.recipes",
    "optimum_plugin": "optimum.commands.register",
}
PACKAGE_FILES = sorted(path for folder in PACKAGE_FOLDERS for path in (ROOT / folder).rglob("*.py"))
PYTHON_FILES = sorted([*PACKAGE_FILES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])
RECIPES = sorted((ROOT / "recipes").rglob("*.y*ml"))

# Put together here, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile(rb"(?<![\w.$}~-])/(?:work\b|root\b|tmp/|home/\w|Users/\w)")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def repository_files() -> list[Path]:
    """Files under version control; where git cannot tell, everything below the folders and files that matter."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        names = listed.decode("utf-8").split("\0")
    except (OSError, subprocess.CalledProcessError):
        names = []
    tracked = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    if tracked:
        return tracked
    folders = [*PACKAGE_FOLDERS, "tests", "benchmarks", "docs", ".ci", ".github"]
    below = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [path for path in below if "__pycache__" not in path.parts] + [*ROOT.glob("*.md"), *ROOT.glob("*.toml")]


def test_files_are_found() -> None:
    names = {name_of(path) for path in PYTHON_FILES}
    assert {"helium_edge/exporting/one.py", "cli/main.py", "tests/conftest.py"} <= names
    assert ROOT / "pyproject.toml" in repository_files()


def test_no_python_file_is_long() -> None:
    """A file is split by job: a long one has several."""
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PYTHON_FILES}
    assert {name: count for name, count in lines.items() if count > MAX_FILE_LINES} == {}


def test_no_function_is_long() -> None:
    """The signature and the docstring do not count: a command's options are its arguments."""
    long = []
    for path in PACKAGE_FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                lines = (node.end_lineno or 0) - body[0].lineno + 1 if body else 0
                if lines > MAX_FUNCTION_LINES:
                    long.append(f"{name_of(path)}: {node.name}: {lines} lines")
    assert not long


def test_every_listed_name_exists() -> None:
    wrong = []
    for path in PACKAGE_FILES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(node, ast.Name) and node.id == "__all__" for node in ast.walk(tree)):
            folder, *parts = path.relative_to(ROOT).with_suffix("").parts
            module = ".".join([PACKAGE_FOLDERS[folder], *parts]).removesuffix(".__init__")
            loaded = importlib.import_module(module)
            wrong += [f"{module}.{name}" for name in loaded.__all__ if not hasattr(loaded, name)]
            assert len(set(loaded.__all__)) == len(loaded.__all__), module
    assert not wrong


def test_every_package_is_installed() -> None:
    """`packages` in pyproject.toml is a list by hand: a folder that is not in it is missing from wheels."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = set(re.findall(r'"(helium_edge[.\w]*)",', text.split("packages = [")[1].split("]")[0]))
    found = {
        ".".join([PACKAGE_FOLDERS[folder], *parts])
        for path in PACKAGE_FILES
        if path.name == "__init__.py"
        for folder, *parts in [path.parent.relative_to(ROOT).parts]
    }
    assert listed == found


def test_every_data_file_is_installed() -> None:
    """Likewise for `package-data`: an editable install has every file, a wheel those that a pattern names."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = text.split("[tool.setuptools.package-data]")[1].split("\n[")[0]
    patterns = dict(re.findall(r'^"?([\w.]+)"? = (\[.*\])$', section, re.MULTILINE))
    folders = {name: ROOT / folder for folder, name in PACKAGE_FOLDERS.items()}
    shipped: set[Path] = set()
    for package, globs in patterns.items():
        root = max((name for name in folders if package.startswith(name)), key=len)
        base = folders[root].joinpath(*package.removeprefix(root).split("."))
        for glob in ast.literal_eval(globs):
            found = list(base.glob(glob))
            assert found, f"package-data: {glob} of {package} matches nothing"
            shipped.update(found)
    present = {path for folder in folders.values() for path in folder.rglob("*") if path.is_file()}
    missing = {path for path in present - shipped if path.suffix != ".py" and "__pycache__" not in path.parts}
    assert not {name_of(path) for path in missing}


# -- recipes


def test_every_recipe_on_disk_ships() -> None:
    assert RECIPES
    assert sorted(path.stem for path in RECIPES) == recipe_names()


@pytest.mark.parametrize("path", RECIPES, ids=name_of)
def test_every_recipe_fits_helium_tiny(path: Path) -> None:
    recipe = parse_recipe(path.read_text(encoding="utf-8"), where=path.name)
    config = ModelConfig.from_file(ROOT / "helium_edge" / "data" / "helium-tiny" / "config.json")
    plan = plan_weights(config, recipe.quantization)
    assert len(plan) == 2 + 7 * config.num_hidden_layers
    assert not any(weight.fallback for weight in plan)
    gates = recipe.gates
    assert None not in (gates.mean_kld, gates.top1, gates.ppl_ratio)


# -- errors


def test_the_tree_of_errors_is_the_one_that_is_drawn() -> None:
    drawn: dict[str, tuple[str, int]] = {}
    stack: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"([ |`-]*)(\w+)\s+exit (\d+)", line)
        if match is None:
            continue
        depth = len(match[1])
        stack = [entry for entry in stack if entry[0] < depth]
        drawn[match[2]] = (stack[-1][1] if stack else "Exception", int(match[3]))
        stack.append((depth, match[2]))
    classes = {
        name: (found.__mro__[1].__name__, found.exit_code)
        for name, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, errors.HeliumEdgeError)
    }
    assert drawn == classes


def test_exit_codes_are_those_of_the_readme() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Exit codes")[1].split("\n## ")[0]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)}
    codes = {
        found.exit_code
        for _, found in inspect.getmembers(errors, inspect.isclass)
        if issubclass(found, errors.HeliumEdgeError)
    }
    signals = {128 + signal.SIGHUP, errors.EXIT_INTERRUPTED, errors.EXIT_TERMINATED}
    assert listed == codes | {errors.EXIT_OK, EXIT_BROKEN_PIPE} | signals


# -- what is under version control


def test_no_file_is_huge() -> None:
    huge = [name_of(path) for path in repository_files() if path.stat().st_size > MAX_FILE_BYTES]
    assert not huge, f"above {MAX_FILE_BYTES >> 20} MiB: {huge}"


def test_no_file_names_a_path_of_a_machine() -> None:
    found = []
    for path in repository_files():
        data = path.read_bytes()
        if b"\0" in data[:8192]:
            continue
        found += [f"{name_of(path)}: {match[0].decode()}" for match in MACHINE_PATH.finditer(data)]
    assert not found
