from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.errors import CheckpointError
from helium_edge.exporting import plan
from helium_edge.presets import PRESETS, preset
from helium_edge.recipe import load_recipe
from tests.helpers.checkpoints import make_checkpoint

Cli = Callable[..., tuple[int, str, str]]


def test_sizes_are_the_published_ones() -> None:
    sizes = {"helium-1-preview-2b": 2_172_643_840, "helium-1-2b": 2_023_868_416}
    assert sizes.keys() == PRESETS.keys()
    for name, parameters in sizes.items():
        shape = preset(name)
        assert shape is not None
        assert shape.num_parameters == parameters
    assert preset("helium-tiny") is None


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("recipe", ["onnx-int4", "xnnpack-int4"])
def test_a_plan_needs_no_weights(name: str, recipe: str) -> None:
    (found,) = plan(name, load_recipe(recipe))
    assert len(found.weights) == 2 + 7 * PRESETS[name]["num_hidden_layers"]
    assert 1.2e9 < sum(nbytes for _, nbytes in found.files) < 1.8e9


def test_a_plan_predicts_phones_and_says_so(cli: Cli) -> None:
    code, out, _ = cli("export", "helium-1-preview-2b", "--recipe", "onnx-int4", "--dry-run")
    assert code == 0
    assert "Predicted, not measured: tokens a second on phones" in out
    code, out, _ = cli("export", "helium-1-preview-2b", "--recipe", "onnx-int4", "--dry-run", "--json")
    found = json.loads(out)["plan"]["predictions"]
    assert len(found) == 3
    assert all(each["predicted"] is True for each in found)


def test_an_export_says_where_the_weights_are() -> None:
    with pytest.raises(CheckpointError, match="the weights are kyutai/helium-1-2b on the Hub"):
        open_checkpoint("helium-1-2b")


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    make_checkpoint(tmp_path / "helium-1-2b", max_position_embeddings=512)
    monkeypatch.chdir(tmp_path)
    assert len(plan("helium-1-2b", load_recipe("onnx-int4"))[0].weights) == 2 + 7 * 2
    code, out, _ = cli("inspect", "helium-1-2b", "--json")
    assert code == 0
    assert json.loads(out)["checkpoint"] == "helium-1-2b"


def test_inspect_shows_the_shape(cli: Cli) -> None:
    code, out, _ = cli("inspect", "helium-1-2b")
    assert code == 0
    assert "LlamaForCausalLM (llama)" in out
    assert "8 key-value heads" in out
    code, out, _ = cli("inspect", "helium-1-2b", "--json")
    document = json.loads(out)
    assert (document["preset"], document["parameters"]) == ("helium-1-2b", 2_023_868_416)
    assert not [key for key in document["config"] if "token" in key]
