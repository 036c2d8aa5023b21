"""The data form of a chat template: what stands before and after each turn, so that a host needs no Jinja.

The Kotlin host has the same code over the same manifest; docs/bundle.md is the text of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from helium_edge.chat.messages import Message
from helium_edge.errors import UsageError

Span = tuple[str, bool]
"""A piece of text, and whether it is the template's own, in which special tokens are read as such."""

Trim = Literal["none", "both", "start", "end", "end_all"]

_BLANK_CODES = (
    *range(0x09, 0x0E), *range(0x1C, 0x21), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F,
    0x205F, 0x3000,
)  # fmt: skip
BLANKS = "".join(map(chr, _BLANK_CODES))
"""What is trimmed: the white space of Python's `str.strip`, written out for other languages."""


@dataclass(frozen=True)
class RoleForm:
    """How the turn of a role reads.

    Args:
        before: Text in front of it.
        after: Text behind it.
        trim: White space that is taken from the turn's own text, at its `start`, its `end` or `both`; `end_all`
            takes it from the end of everything so far, which differs where the text is empty.
    """

    before: str
    after: str
    trim: Trim = "none"


@dataclass(frozen=True)
class ChatForm:
    """How a conversation reads; see docs/bundle.md.

    Args:
        prefix: In front of every conversation.
        system: The system message; None where there can be none.
        without_system: In place of a system message where there is none.
        skip_empty_system: Whether a system message without text counts as none.
        user: A turn of the user.
        first_user: The first one where there is no system message; None reads as `user`.
        user_after_system: The first one behind a system message; None reads as `user`.
        assistant: An answer.
        generation_prompt: Behind the last turn of the user, where the answer begins.
    """

    prefix: str
    system: RoleForm | None
    without_system: str
    skip_empty_system: bool
    user: RoleForm
    first_user: RoleForm | None
    user_after_system: RoleForm | None
    assistant: RoleForm
    generation_prompt: str

    def spans(self, messages: Sequence[Message]) -> list[Span]:
        """The text of a conversation that awaits an answer, in pieces.

        Args:
            messages: As `check_messages` returns them.

        Raises:
            UsageError: A system message where there can be none.
        """
        out: list[Span] = [(self.prefix, True)]
        has_system = messages[0]["role"] == "system"
        turns = messages[1:] if has_system else messages
        if has_system and self.system is None:
            raise UsageError("the chat template of this model takes no system message", hint="leave it out")
        if has_system and self.skip_empty_system and not messages[0]["content"]:
            has_system = False
        if has_system and self.system is not None:
            _add(out, self.system, messages[0]["content"])
        else:
            out.append((self.without_system, True))
        first = self.user_after_system if has_system else self.first_user
        for index, message in enumerate(turns):
            is_user = message["role"] == "user"
            role = (first or self.user) if index == 0 else self.user if is_user else self.assistant
            _add(out, role, message["content"])
        out.append((self.generation_prompt, True))
        return [span for span in out if span[0]]

    def text(self, messages: Sequence[Message]) -> str:
        """The text of a conversation that awaits an answer; see `spans`."""
        return "".join(text for text, _ in self.spans(messages))

    def fixed_texts(self) -> list[str]:
        """Everything that the template itself writes."""
        roles = (self.system, self.user, self.first_user, self.user_after_system, self.assistant)
        around = [text for role in roles if role is not None for text in (role.before, role.after)]
        return [self.prefix, self.without_system, self.generation_prompt, *around]


def _add(out: list[Span], role: RoleForm, text: str) -> None:
    if role.trim in ("both", "start"):
        text = text.lstrip(BLANKS)
    if role.trim in ("both", "end", "end_all"):
        text = text.rstrip(BLANKS)
    out.append((role.before, True))
    out.append((text, False))
    while role.trim == "end_all" and out:
        last, own = out.pop()
        if kept := last.rstrip(BLANKS):
            out.append((kept, own))
            break
    out.append((role.after, True))
