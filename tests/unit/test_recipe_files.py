"""Where recipes come from: the package by name, or a file by its path."""

from __future__ import annotations

from pathlib import Path

import pytest

from helium_edge.errors import RecipeError
from helium_edge.recipe import MAX_RECIPE_BYTES, load_recipe, parse_recipe, recipe_names, recipe_text

MINIMAL = "name: mine\ntargets: {onnx: {}}\nquantization: {rules: [{match: '.*', scheme: int8}]}\n"


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_called_as_their_file(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description
    assert recipe_text(name).startswith(f"name: {name}\n")


def test_there_are_shipped_recipes() -> None:
    assert {"onnx-int4", "onnx-int8", "onnx-fp32", "onnx-int4-portable"} <= set(recipe_names())


def test_an_unknown_name_suggests_a_shipped_one() -> None:
    with pytest.raises(RecipeError, match="no recipe named 'onnx-in4'") as caught:
        load_recipe("onnx-in4")
    assert caught.value.hint == "did you mean 'onnx-int4'?"


@pytest.mark.parametrize("file", ["mine.yaml", "mine.yml", "folder/mine"])
def test_a_file_is_read_by_its_path(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(file).parent.mkdir(exist_ok=True)
    text = f"{MINIMAL}description: été\n"
    Path(file).write_text(text, encoding="utf-8")
    assert load_recipe(file) == parse_recipe(text, where="")
    assert load_recipe(file).description == "été"


def test_a_shipped_name_is_no_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "onnx-int8").write_text("name: other\n", encoding="utf-8")
    assert load_recipe("onnx-int8").name == "onnx-int8"


def test_a_file_error_names_the_file_and_the_key(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"{MINIMAL}shapes: {{cache_len: 0}}\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path))
    assert caught.value.message.startswith(f"{path}: shapes.cache_len = 0")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(str(tmp_path / "none.yaml"))
    with pytest.raises(RecipeError, match="no such recipe file"):
        load_recipe(f"{tmp_path}/")


def test_the_size_limit(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = MINIMAL
    fill = MAX_RECIPE_BYTES - len(text)
    path.write_text(f"{text}#{'x' * (fill - 1)}", encoding="utf-8")
    assert load_recipe(str(path)).name == "mine"
    path.write_text(f"{text}#{'x' * fill}", encoding="utf-8")
    with pytest.raises(RecipeError, match=f"the limit is {MAX_RECIPE_BYTES}"):
        load_recipe(str(path))


def test_a_file_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(RecipeError, match="not readable"):
        load_recipe(str(path))
