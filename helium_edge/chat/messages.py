"""Messages of a conversation, as chat templates and their hosts know them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, get_args

from helium_edge.documents import DocumentError, parse_json, shorten
from helium_edge.errors import UsageError

RoleName = Literal["system", "user", "assistant"]
MAX_MESSAGES_BYTES = 16 << 20


class Message(TypedDict):
    """A turn: who speaks, and what."""

    role: RoleName
    content: str


def check_messages(messages: Sequence[Mapping[str, Any]], where: str = "messages") -> list[Message]:
    """The messages of a conversation that awaits an answer.

    A system message or none comes first, then user and assistant in turn, the user's last.

    Raises:
        UsageError: Something else; the place is named.
    """
    checked: list[Message] = []
    for index, message in enumerate(messages):
        place = f"{where}[{index}]"
        if not isinstance(message, Mapping):
            raise UsageError(f"{place} is no object with role and content")
        role, content = message.get("role"), message.get("content")
        if role not in get_args(RoleName):
            raise UsageError(f"{place}.role = {shorten(repr(role))}; allowed: {', '.join(get_args(RoleName))}")
        if not isinstance(content, str):
            raise UsageError(f"{place}.content must be text")
        after = checked[-1]["role"] if checked else None
        if role not in _FOLLOWS[after]:
            told = "the conversation" if after is None else f"a message of the {after}"
            first = "begins with" if after is None else "is followed by one of"
            raise UsageError(f"{place}: {told} {first} the {' or '.join(_FOLLOWS[after])}, found {role}")
        checked.append(Message(role=role, content=content))
    if not checked or checked[-1]["role"] != "user":
        raise UsageError(f"{where}: the last message must be the user's, whose answer is wanted")
    return checked


_FOLLOWS: dict[str | None, tuple[str, ...]] = {
    None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",),
}  # fmt: skip


def parse_messages(data: bytes, where: str) -> list[Mapping[str, Any]]:
    """Read a JSON list of messages; `check_messages` says whether they are a conversation.

    Raises:
        UsageError: Not a JSON list of objects.
    """
    try:
        found = parse_json(data)
    except DocumentError as error:
        raise UsageError(f"{where}: {error}") from error
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise UsageError(f'{where}: must be a list such as [{{"role": "user", "content": "Hello"}}]')
    return found
