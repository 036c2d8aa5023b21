"""A chat fine-tune in onnxruntime-genai: it samples and stops as the checkpoint says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helium_edge import LanguageModel, load
from helium_edge.runtime.sampling import Sampler, SamplingOptions
from tests.helpers.chat_bundles import chat_bundle, chat_checkpoint
from tests.helpers.genai import genai_ids

QUESTION = [{"role": "user", "content": "How warm is it?"}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chat_checkpoint(tmp_path_factory.mktemp("genai") / "helium-tiny-chat")


def with_settings(checkpoint: Path, out: Path, **settings: Any) -> Path:
    """A bundle of the fine-tune with other generation settings, laid over its own."""
    path = out.with_suffix(".json")
    own = json.loads((checkpoint / "generation_config.json").read_text())
    path.write_text(json.dumps(own | settings))
    return chat_bundle(checkpoint, "onnx-fp32", out, generation_config=path)


def greedy(model: LanguageModel, ids: list[int]) -> list[int]:
    found = model.stream(ids, max_new_tokens=40)
    list(found)
    return found.ids


def test_greedy_ids_and_stop_ids_are_ours(checkpoint: Path, tmp_path: Path) -> None:
    plain = with_settings(checkpoint, tmp_path / "plain", no_repeat_ngram_size=3, repetition_penalty=1.3)
    with load(plain) as model:
        assert isinstance(model, LanguageModel)
        prompt = model.conversations().ids(QUESTION)
        ours = greedy(model, prompt)
    assert genai_ids(plain, prompt, len(ours)) == ours
    assert genai_ids(plain, prompt, len(ours), repetition_penalty=1.0) != ours
    # An id that the untrained fine-tune does choose ends it, as a second end of turn would.
    stop = next(index for at, index in enumerate(ours) if at >= 3 and index not in ours[:at])
    stopping = with_settings(checkpoint, tmp_path / "b", eos_token_id=[2, stop], no_repeat_ngram_size=3,
                             repetition_penalty=1.3)  # fmt: skip
    expected = ours[: ours.index(stop) + 1]
    assert genai_ids(stopping, prompt, 40) == expected
    with load(stopping) as model:
        assert isinstance(model, LanguageModel)
        assert [*greedy(model, prompt), stop] == expected


def test_the_end_of_a_turn_ends_it_where_only_the_template_says_so(checkpoint: Path, tmp_path: Path) -> None:
    # 4097 is the end of a turn; of the two files neither names it.
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 2}))
    bundle = with_settings(folder, tmp_path / "b", eos_token_id=2)
    model = json.loads((bundle / "genai_config.json").read_text())["model"]
    assert set(model["eos_token_id"]) == {2, 4097}


def test_it_draws_from_our_distribution(checkpoint: Path, tmp_path: Path) -> None:
    settings = {"do_sample": True, "temperature": 0.3, "top_p": 0.9}
    bundle = with_settings(checkpoint, tmp_path / "b", **settings)
    with load(bundle) as model:
        assert isinstance(model, LanguageModel)
        prompt = model.conversations().ids(QUESTION)
        row = model.logits(prompt)[-1]
    expected = Sampler(SamplingOptions(temperature=0.3, top_k=50, top_p=0.9)).probabilities(row)
    draws = [genai_ids(bundle, prompt, 1, random_seed=seed)[0] for seed in range(150)]
    assert all(expected[token] > 0 for token in draws)
    likeliest = int(expected.argmax())
    share = draws.count(likeliest) / len(draws)
    assert abs(share - expected[likeliest]) < 4 * (expected[likeliest] / len(draws)) ** 0.5
    assert len(set(draws)) > 1
