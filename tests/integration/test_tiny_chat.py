"""The whole road of a chat fine-tune: train, export, compare, converse, on both runtimes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from helium_edge import Conversation, LanguageModel, check, export, load
from tiny_chat import DIALOGUES, write_checkpoint

STEPS = 300


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("long") / "helium-tiny-chat"
    write_checkpoint(folder, steps=STEPS)
    return folder


def greedy_of_transformers(checkpoint: Path, ids: list[int]) -> list[int]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    out = model.generate(torch.tensor([ids]), max_new_tokens=32, do_sample=False)
    return list(out[0, len(ids) :].tolist())


@pytest.mark.long
def test_a_fine_tune_of_ours_answers_in_six_languages(checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    assert sum(path.stat().st_size for path in checkpoint.iterdir()) < 13 << 20
    result = export(checkpoint, recipe="onnx-int4", out=tmp_path / "b")
    assert result.parity is not None
    assert result.parity.passed
    assert result.manifest.chat is not None
    assert result.manifest.chat.declarative
    assert result.manifest.chat.stop == (2, 4097)
    assert check(result.bundle, checkpoint=checkpoint, tokens=300).passed
    with load(result.bundle) as model:
        assert isinstance(model, LanguageModel)
        right = 0
        for pairs in DIALOGUES.values():
            conversation = Conversation(model)
            for question, answer in pairs:
                values = {"name": "Rosa", "number": "23"}
                said = "".join(conversation.say(question.format(**values)))
                assert conversation.last is not None
                assert conversation.last.stats.stop_reason == "eos"
                right += said == answer.format(**values)
        assert right >= 0.7 * sum(map(len, DIALOGUES.values()))
    exact = export(checkpoint, recipe="onnx-fp32", out=tmp_path / "exact", parity=False)
    reference = AutoTokenizer.from_pretrained(checkpoint)
    with load(exact.bundle) as model:
        assert isinstance(model, LanguageModel)
        messages = [{"role": "user", "content": "Was misst du?"}]
        found = model.stream_chat(messages, temperature=0, max_new_tokens=32)
        list(found)
        # Ids as the tokenizer of transformers gives them, and the end where its `generate` ends.
        assert found.prompt_ids == reference.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        assert [*found.ids, 4097] == greedy_of_transformers(checkpoint, found.prompt_ids)


@pytest.mark.long
def test_its_pte_says_the_same(checkpoint: Path, tmp_path: Path) -> None:
    answers = []
    for recipe in ("onnx-fp32", "xnnpack-fp32"):
        result = export(checkpoint, recipe=recipe, out=tmp_path / recipe, parity=False)
        with load(result.bundle) as model:
            assert isinstance(model, LanguageModel)
            conversation = Conversation(model, system="Answer in one sentence.")
            answers.append(["".join(conversation.say(text)) for text in ("Bonjour", "Je m'appelle Paul", "Merci")])
    assert answers[0] == answers[1]


@pytest.mark.long
def test_the_kotlin_host_says_the_same(checkpoint: Path) -> None:
    if os.environ.get("HELIUM_EDGE_WITHOUT_ANDROID") == "1":
        pytest.skip("HELIUM_EDGE_WITHOUT_ANDROID=1: the Android demo is not checked on this machine")
    script = Path(__file__).parents[2] / "android_demo" / "check.sh"
    given = {"PYTHON": sys.executable, "HELIUM_EDGE_TINY_CHAT": str(checkpoint)}
    found = subprocess.run([script], env=os.environ | given, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-2000:]
    # Its answers are those of Python; the last is one that the model has learned, perhaps to another question.
    last = re.search(r'19 answers in 6 turns: "Ciao" - "(.*)"', found.stdout)
    assert last is not None, found.stdout[-2000:]
    assert last[1] in {answer for pairs in DIALOGUES.values() for _, answer in pairs}
