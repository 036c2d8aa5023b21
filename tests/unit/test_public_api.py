"""What `import helium_edge` offers: the names, that they cost nothing until they are used, and their types."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import helium_edge
from tests.unit.cli.test_main import HEAVY

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = [
    "Classifier", "Conversation", "Encoder", "HeliumEdgeError", "LanguageModel", "Recipe", "check", "export",
    "load",
]  # fmt: skip

SCRIPT = """
from pathlib import Path

from helium_edge import (
    Classifier, Conversation, Encoder, HeliumEdgeError, LanguageModel, Recipe, check, export, load,
)


def ship(source: str, recipe: str | Recipe, out: Path) -> str:
    try:
        result = export(source, recipe=recipe, out=out, force=True)
    except HeliumEdgeError as error:
        raise SystemExit(f"{error.message}: {error.hint}") from error
    passed: bool = check(result.bundle, tokens=200).passed
    name: str = result.manifest.name
    return f"{name} {passed} {result.bundle_bytes}"


def use(bundle: Path) -> list[float]:
    with load(bundle, threads=2) as model:
        if isinstance(model, LanguageModel):
            answer: str = model.generate("The sensor", max_new_tokens=4, temperature=0.7)
            stream = model.stream(answer)
            pieces: list[str] = list(stream)
            rows, width = model.logits(pieces[0]).shape
            answers = Conversation(model, system="Be brief.", temperature=0.7).say(answer)
            pieces.append(next(answers))
            answers.close()
            score = model.score("a", "b")
            return [rows, width, score.log_probability, stream.stats.new_tokens]
        if isinstance(model, Classifier):
            return [label.score for label in model.classify("a")]
        states: Encoder = model
        return [float(value) for value in states.hidden_states([1, 2])[0]]


ship(1, recipe="onnx-int4", out="b")  # wrong: an int is no source, a str no Path
"""


def test_the_names_are_these() -> None:
    assert sorted(helium_edge.__all__) == NAMES
    for name in NAMES:
        assert getattr(helium_edge, name).__name__ == name
    assert set(NAMES) <= set(dir(helium_edge))
    with pytest.raises(AttributeError, match="has no attribute 'exprot'"):
        _ = helium_edge.exprot  # type: ignore[attr-defined]


def test_type_checkers_see_the_same_names_from_the_same_homes() -> None:
    tree = ast.parse(inspect.getsource(helium_edge))
    imports = {
        alias.asname: (node.module or "").removeprefix("helium_edge.")
        for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 0
        for alias in node.names if alias.asname is not None
    }  # fmt: skip
    assert imports == helium_edge._HOMES


def test_every_name_is_in_the_documentation() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "api.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted([*NAMES, "__version__"])


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = {*HEAVY, "pydantic", "rich"}
    code = f"import sys, helium_edge; dir(helium_edge); print(sorted({heavy!r} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_stays_what_it_is_whatever_is_imported_beside_it() -> None:
    """A module of the same name would take its place, once something imports it."""
    code = (
        "import helium_edge.exporting.one, helium_edge.parity.check, helium_edge.cli.main\n"
        "from helium_edge import check, export, load\n"
        "assert all(map(callable, (check, export, load)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    modules = {path.stem for path in (ROOT / "helium_edge").iterdir() if path.suffix in ("", ".py")}
    assert not modules & set(NAMES)


def test_the_package_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "helium_edge", "--version"], capture_output=True, text=True, check=True
    )
    assert helium_edge.__version__ in done.stdout


def test_a_users_script_is_typed(tmp_path: Path) -> None:
    """Strictly, and with what is wrong found."""
    pytest.importorskip("mypy", reason="mypy is not installed")
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    # The types of torch and others would cost a minute, and no name of the API has one of them.
    outside = "\n".join(
        f"[mypy-{name}.*]\nfollow_imports = skip"
        for name in ("torch", "onnx", "onnx_ir", "onnxruntime", "transformers", "executorch", "safetensors")
    )
    (tmp_path / "mypy.ini").write_text(f"[mypy]\nstrict = True\n{outside}\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "example.py", "script.py"],
        capture_output=True, cwd=tmp_path, text=True, check=False,
        env=os.environ | {"MYPYPATH": str(ROOT)},  # mypy does not follow an editable install
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("script.py")]
    found = [re.sub(r"^script\.py:\d+: error: ", "", line) for line in lines if ": error:" in line]
    assert len(found) == 2, done.stdout + done.stderr
    assert all(line.startswith(f"Argument {what} ") for line, what in zip(found, ("1", '"out"'), strict=True)), (
        found
    )
