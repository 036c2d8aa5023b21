"""Conversations as text: chat templates, their data form, and messages."""

from helium_edge.chat.derive import Derived, derive
from helium_edge.chat.form import ChatForm, RoleForm, Span
from helium_edge.chat.messages import Message, check_messages, parse_messages
from helium_edge.chat.template import ChatTemplate, find_template

__all__ = [
    "ChatForm", "ChatTemplate", "Derived", "Message", "RoleForm", "Span", "check_messages", "derive",
    "find_template", "parse_messages",
]  # fmt: skip
