from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from helium_edge.cli.recipes import parse_bytes

from helium_edge.recipe import load_recipe, parse_recipe, recipe_names, recipe_text
from tests.helpers.checkpoints import make_checkpoint
from tests.unit.cli.commands import start

Cli = Callable[..., tuple[int, str, str]]


def test_the_list_names_every_recipe_with_targets_and_description(cli: Cli) -> None:
    code, out, err = cli("recipes")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.split())
    for name in recipe_names():
        recipe = load_recipe(name)
        assert f"{name} {', '.join(recipe.targets.names())} {recipe.description.split()[0]}" in words
    assert err.startswith("next: helium-edge recipes show ")


def test_the_list_as_json(cli: Cli) -> None:
    code, out, _ = cli("recipes", "--json")
    found = json.loads(out)["recipes"]
    assert code == 0
    assert [entry["name"] for entry in found] == recipe_names()
    assert all(entry["targets"] and entry["description"] for entry in found)


def test_stdout_of_show_is_a_recipe_file(tmp_path: Path) -> None:
    done = start("recipes", "show", "onnx-int4")
    assert done.returncode == 0
    assert done.stdout == recipe_text("onnx-int4")
    assert parse_recipe(done.stdout, where="stdout") == load_recipe("onnx-int4")


def test_show_as_json_has_the_defaults_filled_in(cli: Cli) -> None:
    recipe = json.loads(cli("recipes", "show", "onnx-int4", "--json")[1])["recipe"]
    assert recipe == load_recipe("onnx-int4").model_dump(mode="json")


def test_show_suggests_the_nearest_name(cli: Cli) -> None:
    code, out, err = cli("recipes", "show", "onnx-int44")
    assert (code, out) == (2, "")
    assert err == "error: no recipe named 'onnx-int44'\nhint: did you mean 'onnx-int4'?\n"


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(recipe_text("onnx-int8"), encoding="utf-8")
    return path


def test_check_of_a_valid_file_says_what_is_in_it(cli: Cli, recipe_file: Path) -> None:
    code, out, err = cli("recipes", "check", str(recipe_file))
    assert code == 0
    assert out.splitlines()[0] == f"{recipe_file}: a valid recipe"
    assert "int8" in out
    assert err.startswith(f"next: helium-edge export CHECKPOINT --recipe {recipe_file} --dry-run")


def test_check_as_json(cli: Cli, recipe_file: Path) -> None:
    document = json.loads(cli("recipes", "check", str(recipe_file), "--json")[1])
    assert document["valid"] is True
    assert document["recipe"]["name"] == "onnx-int8"


def test_check_suggests_the_key_that_was_meant(cli: Cli, recipe_file: Path) -> None:
    recipe_file.write_text(recipe_text("onnx-int8").replace("cache_len", "cache_length"), encoding="utf-8")
    code, out, err = cli("recipes", "check", str(recipe_file))
    assert (code, out) == (2, "")
    assert err == (f"error: {recipe_file}: unknown key 'shapes.cache_length'\nhint: did you mean 'cache_len'?\n")


def test_check_as_json_on_failure_is_a_document(cli: Cli, recipe_file: Path) -> None:
    recipe_file.write_text("name: [", encoding="utf-8")
    code, out, _ = cli("recipes", "check", str(recipe_file), "--json")
    assert code == 2
    assert "not valid YAML" in json.loads(out)["error"]["message"]


def test_check_of_a_missing_file(cli: Cli, tmp_path: Path) -> None:
    code, _, err = cli("recipes", "check", str(tmp_path / "none.yaml"))
    assert code == 2
    assert "no such recipe file" in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1200000000", 12 * 10**8), ("1.2G", 12 * 10**8), ("8 MB", 8 * 10**6), ("1.5GiB", 3 << 29), ("4k", 4000)],
)
def test_sizes_are_read_with_their_units(text: str, expected: int) -> None:
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-1", "1.2T", "1e9", "1,2G"])
def test_other_sizes_are_refused(cli: Cli, text: str) -> None:
    code, out, err = cli("recipes", "fit", "helium-tiny", f"--bytes={text}")
    assert (code, out) == (2, "")
    assert err == f"error: --bytes {text}: not a number of bytes\nhint: write it as 1200000000, 1.2G or 1.1GiB\n"


def test_fit_prints_a_recipe_and_says_the_rest_on_stderr(cli: Cli, tmp_path: Path) -> None:
    source = make_checkpoint(tmp_path / "c", num_hidden_layers=2, vocab_size=320, max_position_embeddings=256)
    asked = ("recipes", "fit", str(source), "--bytes", "10M")
    code, out, err = cli(*asked)
    assert code == 0
    recipe = parse_recipe(out, where="stdout")
    assert {str(rule.scheme) for rule in recipe.quantization.rules} == {"int8"}  # there is room for that
    assert err.splitlines()[-4].split() == ["predicted", "graphs", "and", "weights", "mean", "KLD"]
    document = json.loads(cli(*asked, "--json")[1])
    assert document["recipe"] == recipe.model_dump(mode="json")
    assert document["predicted"]["bytes"] <= 10_000_000
    assert len(document["groups"]) == 2 + 4 * 2
