"""From an opened bundle to conversations as token ids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from helium_edge.bundle.chat_template import section_of, templates_of_bundle
from helium_edge.bundle.verify import Bundle
from helium_edge.chat import DEFAULT, ChatForm, ChatTemplate, Message, Span
from helium_edge.documents import shorten
from helium_edge.errors import BundleError, UsageError
from helium_edge.runtime.fit_conversation import fit_conversation
from helium_edge.runtime.spans import SpanEncoder
from helium_edge.runtime.tokenizer import Tokenizer


class Conversations:
    """Makes ids of conversations, by the bundle's chat template.

    Args:
        bundle: The bundle; of a template that cannot be said as data, its Jinja is rendered.
        tokenizer: The bundle's.
        template: Which of several chat templates; None is the one called `default`.

    Attributes:
        stop: Ids that end an answer.

    Raises:
        BundleError: The bundle has no chat template.
        UsageError: It has none of this name, or several and none called `default`.
    """

    def __init__(self, bundle: Bundle, tokenizer: Tokenizer, template: str | None = None) -> None:
        manifest = bundle.manifest
        if manifest.chat is None:
            raise BundleError(
                f"{manifest.name} has no chat template: its checkpoint is no fine-tune for conversations",
                hint="`helium-edge generate` continues a text, which is what such a model is for",
            )
        section, is_default = manifest.chat, template in (None, DEFAULT)
        self._template: ChatTemplate | None = None
        if not is_default or section.to_form() is None:
            self._template = _named(bundle, template)
            section = section if is_default else section_of(self._template, tokenizer, manifest.tokens.eos)
        self._form: ChatForm | None = section.to_form()
        fixed = [] if self._template is None else [self._template.text]
        fixed = fixed if self._form is None else self._form.fixed_texts()
        self.stop = tuple(sorted({*section.stop, *manifest.tokens.eos}))
        own = [token for token in (manifest.tokens.bos, manifest.tokens.pad) if token is not None]
        self._tokenizer = tokenizer
        self._encoder = SpanEncoder(tokenizer, fixed, {*self.stop, *own})

    def ids(self, messages: Sequence[Message], *, parse_special: bool = False) -> list[int]:
        """Token ids of a conversation, up to where the answer begins.

        Args:
            messages: As `check_messages` returns them.
            parse_special: Whether text of users that spells a special token becomes one.

        Raises:
            UsageError: The template refuses the conversation.
        """
        spans = self._spans(messages)
        return self._encoder.encode([(text, True) for text, _ in spans] if parse_special else spans)

    def fit(
        self, messages: Sequence[Message], room: int, cached: Sequence[int] = (), *, parse_special: bool = False
    ) -> tuple[list[int], int]:
        """Ids of a conversation that fit in `room` tokens, and how many of the oldest messages were left out.

        Raises:
            CacheFullError: Even the last turn alone does not fit.
            UsageError: The template refuses the conversation.
        """
        return fit_conversation(lambda kept: self.ids(kept, parse_special=parse_special), messages, room, cached)

    def _spans(self, messages: Sequence[Message]) -> list[Span]:
        if self._form is not None:
            return self._form.spans(messages)
        assert self._template is not None
        hidden = self._encoder.hide([message["content"] for message in messages])
        marked = [{**message, "content": text} for message, text in zip(messages, hidden, strict=True)]
        return self._encoder.shown(self._template.render(cast(list[Message], marked)))


def _named(bundle: Bundle, name: str | None) -> ChatTemplate:
    """A template among the files of a bundle."""
    where = bundle.manifest.name
    templates = templates_of_bundle(bundle.folder)
    if templates is None:
        raise BundleError(f"{where}: the chat template is not among the files of the bundle")
    found = templates.by_name.get(name or DEFAULT)
    if found is None:
        asked = f"no chat template {shorten(repr(name))}" if name else "no chat template called default"
        raise UsageError(f"{where} has {asked}; it has {templates.names}", hint="choose one with --template NAME")
    return found
