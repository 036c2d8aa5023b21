"""Several chat templates in one checkpoint: all are in the bundle, and each is chosen by its name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from helium_edge import Conversation, LanguageModel, load
from helium_edge.bundle import verify_bundle
from helium_edge.errors import UsageError
from tests.helpers.chat_bundles import chat_bundle, chat_checkpoint
from tests.unit.cli.test_generate_command import Cli

RAG = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}</s>{% endfor %}[assistant]"
LAST = "{{ bos_token }}{{ messages[-1]['content'] | upper }}:"  # no data form: it changes texts
MESSAGES = [{"role": "system", "content": "Be brief. "}, {"role": "user", "content": " How warm?"}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = chat_checkpoint(tmp_path_factory.mktemp("named") / "model")
    text = json.loads((folder / "tokenizer_config.json").read_text())["chat_template"]
    (folder / "chat_template.jinja").write_text(text)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text(RAG)
    (folder / "additional_chat_templates" / "shout-1.jinja").write_text(LAST)
    return folder


@pytest.fixture(scope="module")
def bundle(checkpoint: Path) -> Path:
    return chat_bundle(checkpoint, "onnx-int8", checkpoint.parent / "bundle")


def open_model(bundle: Path) -> LanguageModel:
    model = load(bundle, threads=1)
    assert isinstance(model, LanguageModel)
    return model


def test_each_is_rendered_as_by_transformers(checkpoint: Path, bundle: Path) -> None:
    verify_bundle(bundle)
    model = open_model(bundle)
    assert model.manifest.chat is not None
    assert model.manifest.chat.templates == {
        "default": "chat_template.jinja",
        "rag": "additional_chat_templates/rag.jinja",
        "shout-1": "additional_chat_templates/shout-1.jinja",
    }
    assert model.manifest.source.files.keys() >= {"additional_chat_templates/rag.jinja"}
    reference = AutoTokenizer.from_pretrained(checkpoint)
    for name in (None, "default", "rag", "shout-1"):
        theirs = reference.apply_chat_template(
            MESSAGES, chat_template=name, add_generation_prompt=True, return_dict=False
        )
        assert model.conversations(name).ids(MESSAGES) == theirs, name  # type: ignore[arg-type]
    assert model.conversations("rag").stop == (2, 4097)
    conversation = Conversation(model, template="rag", max_new_tokens=3)
    list(conversation.say("How warm?"))
    assert conversation.last is not None
    assert conversation.last.prompt_ids == model.conversations("rag").ids(conversation.messages[:1])
    with pytest.raises(UsageError, match="no chat template 'rga'; it has default, rag, shout-1"):
        model.chat(MESSAGES, template="rga")


def test_users_spell_no_special_token_in_any(bundle: Path) -> None:
    model = open_model(bundle)
    for name in ("rag", "shout-1"):
        ids = model.conversations(name).ids([{"role": "user", "content": "</s><s>"}])
        assert ids.count(2) == (name == "rag")
        assert ids.count(1) == 1


def test_commands_choose_by_name(cli: Cli, bundle: Path) -> None:
    model = open_model(bundle)
    options = ("--max-new-tokens", "4")
    question = [{"role": "user", "content": "Hello"}]
    code, out, _ = cli("generate", str(bundle), "--chat", "Hello", "--template", "rag", "--json", *options)
    assert code == 0
    assert json.loads(out)["prompt_ids"] == model.conversations("rag").ids(question)  # type: ignore[arg-type]
    answer = json.loads(out)["text"]
    code, _, err = cli("generate", str(bundle), "--chat", "Hello", "--template", "rga")
    assert code == 2
    assert "error: model-onnx-int8 has no chat template 'rga'; it has default, rag, shout-1\n" in err
    code, _, err = cli("generate", str(bundle), "Hello", "--template", "rag")
    assert code == 2
    assert "--template is for conversations" in err
    assert answer


def test_only_others_than_the_default(checkpoint: Path, tmp_path: Path, cli: Cli) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    (folder / "chat_template.jinja").unlink()
    model = open_model(chat_bundle(folder, "onnx-int8", tmp_path / "bundle"))
    chat = model.manifest.chat
    assert chat is not None
    assert (chat.declarative, chat.reason) == (False, "no template is called default; found rag, shout-1")
    with pytest.raises(UsageError, match="no chat template called default; it has rag, shout-1"):
        model.conversations()
    with pytest.raises(ValueError, match="no default specified"):
        AutoTokenizer.from_pretrained(folder).apply_chat_template(MESSAGES)
    assert model.conversations("rag").ids(MESSAGES)  # type: ignore[arg-type]
    code, _, err = cli("chat", str(tmp_path / "bundle"))
    assert code == 2
    assert "choose one with --template NAME" in err
