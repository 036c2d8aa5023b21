"""Prompt lookup on real graphs: shipped ones that return the last row, and those that return all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from helium_edge import LanguageModel, export, load
from helium_edge.bundle import open_bundle
from helium_edge.errors import UsageError
from helium_edge.recipe import load_recipe
from helium_edge.runtime.onnx_rows import OnnxRowsRunner
from helium_edge.texts import LANGUAGES, evaluation_text
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens

GREEDY: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 48}
SMALL = {"num_hidden_layers": 2, "vocab_size": 320, "max_position_embeddings": 256, "std": 0.1}


def opened(bundle: Path, **options: Any) -> LanguageModel:
    model = load(bundle, trusted=True, threads=1, **options)
    assert isinstance(model, LanguageModel)
    return model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lookahead")
    source = make_checkpoint(root / "c", **SMALL)
    return export(source, recipe="onnx-fp32", out=root / "b", parity=False, run=False).bundle


def test_guesses_change_no_token_and_leave_the_cache_as_it_was(bundle: Path) -> None:
    plain, ahead = opened(bundle), opened(bundle, rows=True)
    accepted = 0
    for seed in range(8):
        prompt = random_tokens(5, 320, seed) * 3
        expected = plain.stream(prompt, **GREEDY)
        found = ahead.stream(prompt, lookahead=7, **GREEDY)
        assert list(found) == list(expected)
        assert found.ids == expected.ids
        assert found.ahead is not None
        accepted += found.ahead.accepted
        assert list(ahead.token_cache.ids) == list(plain.token_cache.ids)
        assert ahead.token_cache.position == plain.token_cache.position
    assert accepted > 0


def test_graphs_that_return_one_row_are_refused_by_name(bundle: Path) -> None:
    with pytest.raises(UsageError, match="return the logits of the last token of a call alone") as caught:
        opened(bundle, static=True).stream([1, 2, 3], lookahead=7, **GREEDY)  # before a token, whatever the text
    assert "rows=True" in str(caught.value.hint)


def test_a_host_of_its_own_gets_the_rows_that_it_names(bundle: Path) -> None:
    """ONNX Runtime and the manifest alone, as docs/bundle.md says."""
    manifest = json.loads((bundle / "helium-edge.json").read_text(encoding="utf-8"))
    (graph,) = [each for each in manifest["graphs"] if each["phase"] == "any"]
    shapes = {each["name"]: each["shape"] for each in graph["inputs"] + graph["outputs"]}
    # Those of one row: hosts that know of no others allocate by them.
    assert (shapes["last_index"], shapes["logits"], graph["free_rows"]) == ([1], [1, 1, 320], True)
    session = ort.InferenceSession(bundle / graph["file"])
    assert {each.name: each.shape for each in session.get_inputs()}["last_index"] == ["R"]
    ids = random_tokens(6, 320, 5)

    def run(rows: list[int]) -> Any:
        given: dict[str, Any] = {
            "input_ids": np.array([ids], np.int64),
            "past_length": np.array([0], np.int32),
            "last_index": np.array(rows, np.int32),
        }
        for each in graph["inputs"]:
            if each["role"].startswith("past_") and each["role"] != "past_length":
                given[each["name"]] = np.zeros(each["shape"], each["dtype"])
        return session.run(["logits"], given)[0][0]

    every = run([0, 1, 2, 3, 4, 5])
    assert every.shape == (6, 320)
    assert np.allclose(run([5, 2]), every[[5, 2]], atol=1e-5)
    plain = opened(bundle)
    expected = plain.logits(ids)
    assert np.allclose(every, expected[-6:], atol=1e-4)


def test_graphs_of_earlier_versions_give_their_rows_too(bundle: Path, tmp_path: Path) -> None:
    old = tmp_path / "old"
    shutil.copytree(bundle, old)
    model = onnx.load(old / "decoder.onnx", load_external_data=False)
    for value, at in ((model.graph.input, 0), (model.graph.output, 1)):
        (found,) = [each for each in value if each.name in ("last_index", "logits")]
        found.type.tensor_type.shape.dim[at].dim_value = 1
    for inner in (dim for value in model.graph.value_info for dim in value.type.tensor_type.shape.dim):
        if inner.dim_param == "R":
            inner.dim_value = 1
    onnx.save(model, old / "decoder.onnx")
    spec = open_bundle(bundle).manifest.decoder_spec()
    ids = random_tokens(6, 320, 5)
    rows = [OnnxRowsRunner(folder, {"any": "decoder.onnx"}, spec).prefill_rows(ids) for folder in (bundle, old)]
    assert np.array_equal(*rows)


@pytest.mark.long
def test_two_hundred_prompts_of_helium_tiny(tmp_path: Path) -> None:
    out = export(
        "helium-tiny", recipe=load_recipe("onnx-fp32"), out=tmp_path / "b", parity=False, run=False
    ).bundle
    plain, ahead = opened(out), opened(out, rows=True)
    words = [evaluation_text(language).split() for language in LANGUAGES]
    for number in range(200):
        text = words[number % len(words)]
        start = 7 * number % (len(text) - 40)
        prompt = " ".join(text[start : start + 4 + number % 30])
        prompt = f"{prompt}. {prompt[: len(prompt) // 2]}" if number % 2 else prompt
        assert list(ahead.stream(prompt, lookahead=7, **GREEDY)) == list(plain.stream(prompt, **GREEDY)), prompt
