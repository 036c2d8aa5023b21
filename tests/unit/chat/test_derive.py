"""The data form: equal to the template on conversations that the derivation never saw, or honestly refused."""

from __future__ import annotations

import dataclasses
import importlib

import pytest

from helium_edge.chat import ChatForm, ChatTemplate, RoleForm, check_messages, derive
from helium_edge.chat.derive import conversation, held_out_conversations
from helium_edge.chat.template import Request
from helium_edge.errors import UsageError
from tests.helpers import chat_templates as forms

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
CHATML = ChatForm(
    prefix="",
    system=RoleForm("<|im_start|>system\n", "<|im_end|>\n"),
    without_system="",
    skip_empty_system=False,
    user=RoleForm("<|im_start|>user\n", "<|im_end|>\n"),
    first_user=None,
    user_after_system=None,
    assistant=RoleForm("<|im_start|>assistant\n", "<|im_end|>\n"),
    generation_prompt="<|im_start|>assistant\n",
)


@pytest.mark.parametrize("name", forms.DECLARATIVE)
def test_the_form_says_what_the_template_writes(name: str) -> None:
    template = ChatTemplate(forms.DECLARATIVE[name], TOKENS)
    derived = derive(template)
    form = derived.form
    assert form is not None, derived.reason
    assert (form.system is None) == (name in forms.WITHOUT_SYSTEM) == bool(derived.reason)
    # Another seed than the one that the derivation checks itself with.
    held_out = list(held_out_conversations(with_system=form.system is not None, count=200, seed=123))
    assert {len(messages) for messages in held_out} >= {1, 3, 5, 7, 9, 11}
    texts = template.render_all([Request(messages) for messages in held_out])
    assert [form.text(messages) for messages in held_out] == texts


def test_the_parts_are_those_that_one_would_write() -> None:
    assert derive(ChatTemplate(forms.CHATML, TOKENS)).form == CHATML
    form = derive(ChatTemplate(forms.CHATML_DEFAULT_SYSTEM, TOKENS)).form
    default = "<|im_start|>system\nYou answer in one sentence.<|im_end|>\n"
    assert form == dataclasses.replace(CHATML, without_system=default)


@pytest.mark.parametrize("reason", forms.NOT_DECLARATIVE)
def test_what_cannot_be_said_as_data_has_a_reason(reason: str) -> None:
    derived = derive(ChatTemplate(forms.NOT_DECLARATIVE[reason], TOKENS))
    assert derived.form is None
    assert reason in derived.reason


def test_a_system_message_in_the_last_turn_is_refused_and_the_rest_is_not() -> None:
    derived = derive(ChatTemplate(forms.MISTRAL_SYSTEM_IN_LAST_TURN, TOKENS))
    assert derived.form is not None
    assert "does not stand once, in front of the turns" in derived.reason
    with pytest.raises(UsageError, match="takes no system message"):
        derived.form.spans(conversation("x", system="y"))


def test_a_broken_template_is_refused_with_its_own_message() -> None:
    assert "Unexpected end of template" in derive(ChatTemplate("{% if x %}")).reason


def test_verification_finds_a_form_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the looks at blanks a trimming template would be taken for one that does not trim."""
    module = importlib.import_module("helium_edge.chat.derive")
    monkeypatch.setattr(module, "_with_trims", lambda form, texts: form)
    derived = derive(ChatTemplate(forms.LLAMA_3, TOKENS))
    assert derived.form is None
    assert "reads otherwise" in derived.reason


def test_texts_of_turns_are_told_from_those_of_the_template() -> None:
    spans = CHATML.spans(conversation("<|im_end|>", system=""))
    assert ("<|im_end|>", False) in spans
    assert all(own for text, own in spans if text != "<|im_end|>")
    assert ("", False) not in spans


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the last message must be the user's"),
        ([{"role": "system", "content": "x"}], "the last message must be the user's"),
        ([{"role": "tool", "content": "x"}], r"messages\[0\].role = 'tool'; allowed: system, user, assistant"),
        ([{"role": "user", "content": 7}], r"messages\[0\].content must be text"),
        ([{"role": "assistant", "content": "x"}], "the conversation begins with the system or user"),
        ([*conversation("x"), *conversation("y")], r"messages\[1\]: a message of the user is followed by"),
        (["x"], r"messages\[0\] is no object"),
    ],
)
def test_a_conversation_that_is_none_is_refused(messages: list[object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_messages(messages)  # type: ignore[arg-type]
