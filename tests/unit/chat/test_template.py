"""Rendering: the text of transformers, within limits."""

from __future__ import annotations

import importlib.resources
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from helium_edge.chat import ChatTemplate, ChatTemplates, Message, find_templates
from helium_edge.chat.derive import conversation, held_out_conversations
from helium_edge.chat.template import Request, TemplateError
from helium_edge.errors import CheckpointError, UsageError
from helium_edge.runtime.token_files import read_declared
from tests.helpers import chat_templates as forms

TINY = Path(str(importlib.resources.files("helium_edge.data"))) / "helium-tiny"
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
ALL = {**forms.DECLARATIVE, "mistral-last": forms.MISTRAL_SYSTEM_IN_LAST_TURN, "thinking": forms.THINKING}
USER: list[Message] = conversation("x")
NAMED = [{"name": "rag", "template": "t"}, {"name": "default", "template": "d"}]
DEEP = """{% set ns = namespace(n=0) %}{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}
{%- if loop.index > 5 %}{% break %}{% endif %}{% set ns.n = ns.n + 1 %}
{{ ns.n }}: {{ m | tojson }} {{ m.content | tojson(indent=2) }}
{% generation %}{{ m['content'].split()[-1:] | join }}{% endgeneration %}
{%- endfor %}{{ 'tools' if tools else 'none' }}{{ unk_token }}{{ dict(a=1) | tojson }}"""


def folder_with(path: Path, config: dict[str, Any], files: dict[str, str] | None = None) -> Path:
    path.mkdir()
    shutil.copy(TINY / "tokenizer.json", path)
    base = {"tokenizer_class": "PreTrainedTokenizerFast", **TOKENS}
    (path / "tokenizer_config.json").write_text(json.dumps(base | config), encoding="utf-8")
    for name, text in (files or {}).items():
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(text, encoding="utf-8")
    return path


def all_in(folder: Path) -> ChatTemplates | None:
    def read(name: str, limit: int) -> bytes | None:
        return (folder / name).read_bytes() if (folder / name).is_file() else None

    names = [path.name for path in (folder / "additional_chat_templates").glob("*.jinja")]
    files = {path.name: path for path in folder.glob("*.json")}
    declared = read_declared(files, json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
    return find_templates(read, names, declared.named)


def found_in(folder: Path) -> ChatTemplate | None:
    found = all_in(folder)
    return None if found is None else found.default


@pytest.mark.parametrize("name", [*ALL, "deep"])
def test_texts_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "a", {"chat_template": ALL.get(name, DEEP)})
    reference = AutoTokenizer.from_pretrained(folder)
    template = found_in(folder)
    assert template is not None
    with_system = name not in forms.WITHOUT_SYSTEM
    conversations = held_out_conversations(with_system=with_system, count=40, seed=3)
    requests = [Request(messages, index % 3 > 0) for index, messages in enumerate(conversations)]
    for request, text in zip(requests, template.render_all(requests), strict=True):
        assert text == reference.apply_chat_template(
            request.messages, tokenize=False, add_generation_prompt=request.add_generation_prompt
        )


@pytest.mark.parametrize(
    ("config", "files", "expected"),
    [
        ({}, {}, None),
        ({"chat_template": "a"}, {}, "a"),
        ({"chat_template": "a"}, {"chat_template.jinja": "b"}, "b"),
        ({"chat_template": NAMED}, {}, "d"),
        ({"chat_template": {"rag": "t", "default": "d"}}, {}, "d"),
        ({}, {"chat_template.jinja": "b", "additional_chat_templates/tool_use.jinja": "t"}, "b"),
        # Any file of templates takes the place of all that are in tokenizer_config.json, its default too.
        ({"chat_template": NAMED}, {"additional_chat_templates/other.jinja": "o"}, None),
        ({"chat_template": "a"}, {"additional_chat_templates/default.jinja": "o"}, "o"),
        (
            {"chat_template": "a"},
            {"chat_template.jinja": "b", "additional_chat_templates/default.jinja": "o"},
            "o",
        ),
    ],
)
def test_templates_are_those_that_transformers_takes(
    config: dict[str, Any], files: dict[str, str], expected: str | None, tmp_path: Path
) -> None:
    folder = folder_with(tmp_path / "a", config, files)
    found = all_in(folder)
    assert (None if found is None or found.default is None else found.default.text) == expected
    theirs = AutoTokenizer.from_pretrained(folder).chat_template
    theirs = {"default": theirs} if isinstance(theirs, str) else theirs
    assert (None if found is None else {name: each.text for name, each in found.by_name.items()}) == theirs


def test_templates_that_lose_are_told(tmp_path: Path) -> None:
    both = folder_with(tmp_path / "a", {"chat_template": "a"}, {"chat_template.jinja": "b"})
    found = all_in(both)
    assert found is not None
    (line,) = found.warnings
    assert line.startswith("tokenizer_config.json: chat_template (default) is not that of chat_template.jinja")
    (both / "chat_template.jinja").write_text("a")
    same = all_in(both)
    assert same is not None
    assert same.warnings == ()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (7, "must be a text, or a list of named templates"),
        ([{"name": 3, "template": "t"}], "must be a text"),
        ([{"name": "default"}], "must be a text"),
    ],
)
def test_a_malformed_template_is_named(found: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        found_in(folder_with(tmp_path / "a", {"chat_template": found}))


DECODER = {
    str(at): {"content": text, "special": True} for at, text in enumerate(("<unk>", "<s>", "</s>", "<pad>"))
}
SPECIAL = "{{ bos_token }}|{{ eos_token }}|{{ unk_token }}|{{ pad_token }}|{{ image_token }}|{{ end_token }}"
TOKENS_OF_FILES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "texts": ({}, {}),
    "objects": ({"bos_token": {"content": "<s>", "special": True, "__type": "AddedToken"}}, {}),
    "LlamaTokenizer has its own": ({"tokenizer_class": "LlamaTokenizer", "bos_token": None}, {}),
    "the map wins": ({}, {"eos_token": "<pad>", "bos_token": {"content": "</s>"}}),
    "the map wins over null": ({"eos_token": None}, {"eos_token": "<pad>"}),
    "added_tokens_decoder ends the map": ({"added_tokens_decoder": DECODER}, {"eos_token": "<pad>"}),
    "names of its own": ({"image_token": "<pad>"}, {"end_token": "</s>"}),
    "an object of extra tokens": ({"extra_special_tokens": {"image_token": "<pad>", "end_token": "<e>"}}, {}),
    "tokens of the model": ({"model_specific_special_tokens": {"image_token": "<pad>"}}, {}),
}


@pytest.mark.parametrize("name", TOKENS_OF_FILES)
def test_a_template_sees_the_special_tokens_of_transformers(name: str, tmp_path: Path) -> None:
    config, special = TOKENS_OF_FILES[name]
    files = {"special_tokens_map.json": json.dumps(special)} if special else {}
    folder = folder_with(tmp_path / "a", config | {"chat_template": SPECIAL}, files)
    template = found_in(folder)
    assert template is not None
    theirs = AutoTokenizer.from_pretrained(folder)
    assert template.render(USER) == theirs.apply_chat_template(USER, tokenize=False)


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(9999) %}{% for j in range(9999) %}{% set k = i %}{% endfor %}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",
    ],
)
def test_a_template_that_does_not_end_is_ended(text: str) -> None:
    start = time.perf_counter()
    with pytest.raises(TemplateError, match=r"it takes more than 1 seconds|time or memory"):
        ChatTemplate(text, seconds=1).render_all([Request(USER)])
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{{ 'x' * (10 ** 11) }}", "too much memory"),
        ("{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", "more than 4194304 characters"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ raise_exception('no\nsuch') }}", "^no$"),
    ],
)
def test_a_template_that_asks_for_too_much_is_refused(text: str, message: str) -> None:
    found = ChatTemplate(text).render_all([Request(USER)])[0]
    assert isinstance(found, TemplateError)
    with pytest.raises(TemplateError, match=message):
        raise found


def test_a_template_that_is_none_is_one_line() -> None:
    with pytest.raises(UsageError, match=r"the chat template cannot be used: .*Expected an expression"):
        ChatTemplate("{% for %}").render(USER)
    with pytest.raises(UsageError, match="the chat template refuses this conversation: roles must alternate"):
        ChatTemplate(forms.LLAMA_2, TOKENS).render([*USER, *USER])
