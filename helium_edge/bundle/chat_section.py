"""The section `chat` of the manifest: the chat template as data, for hosts that have no Jinja."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from pydantic import Field

from helium_edge.bundle.sections import BundlePath, Section, TokenId
from helium_edge.chat import ChatForm, RoleForm
from helium_edge.chat.form import Trim
from helium_edge.schemas import Items


class RoleSection(Section):
    """How the turn of a role reads."""

    before: str
    """Text in front of the turn's own."""
    after: str
    """Text behind it."""
    trim: Trim
    """White space that is taken from the turn's own text; `end_all` takes it from the end of everything so far."""


class ChatSection(Section):
    """How a conversation reads; the other fields are null or empty where `declarative` is false."""

    declarative: bool
    """Whether the template can be said as data; hosts without Jinja refuse to chat otherwise."""
    reason: str | None = None
    """Why it cannot, or why `system` is null."""
    prefix: str = ""
    """In front of every conversation."""
    system: RoleSection | None = None
    """The system message; null where there can be none."""
    without_system: str = ""
    """In place of a system message where there is none."""
    skip_empty_system: bool = False
    """Whether a system message without text counts as none."""
    user: RoleSection | None = None
    """A turn of the user."""
    first_user: RoleSection | None = None
    """The first one where there is no system message; null reads as `user`."""
    user_after_system: RoleSection | None = None
    """The first one behind a system message; null reads as `user`."""
    assistant: RoleSection | None = None
    """An answer."""
    generation_prompt: str = ""
    """Behind the last turn of the user, where the answer begins."""
    stop: Items[TokenId] = ()
    """Ids that end an answer: `tokens.eos`, and the special token that follows an answer in the template."""
    templates: dict[str, BundlePath] = Field(default_factory=dict)
    """The file that holds each template, by name; what is data here is the one called `default`."""

    def to_form(self) -> ChatForm | None:
        """The data form; None where there is none."""
        if not self.declarative or self.user is None or self.assistant is None:
            return None
        return ChatForm(
            prefix=self.prefix,
            system=_to_role(self.system),
            without_system=self.without_system,
            skip_empty_system=self.skip_empty_system,
            user=RoleForm(self.user.before, self.user.after, self.user.trim),
            first_user=_to_role(self.first_user),
            user_after_system=_to_role(self.user_after_system),
            assistant=RoleForm(self.assistant.before, self.assistant.after, self.assistant.trim),
            generation_prompt=self.generation_prompt,
        )

    @classmethod
    def from_form(cls, form: ChatForm, reason: str, stop: Collection[int]) -> ChatSection:
        """The section of a form."""
        return cls(
            declarative=True,
            reason=reason or None,
            prefix=form.prefix,
            system=_from_role(form.system),
            without_system=form.without_system,
            skip_empty_system=form.skip_empty_system,
            user=_from_role(form.user),
            first_user=_from_role(form.first_user),
            user_after_system=_from_role(form.user_after_system),
            assistant=_from_role(form.assistant),
            generation_prompt=form.generation_prompt,
            stop=tuple(sorted(stop)),
        )

    def problems(self) -> Iterator[str]:
        """What is wrong with it beyond its schema."""
        if self.declarative and (self.user is None or self.assistant is None):
            yield "chat is declarative, and has no user or no assistant"


def _to_role(section: RoleSection | None) -> RoleForm | None:
    return None if section is None else RoleForm(section.before, section.after, section.trim)


def _from_role(role: RoleForm | None) -> RoleSection | None:
    return None if role is None else RoleSection(before=role.before, after=role.after, trim=role.trim)
