"""Conversations as text: chat templates, their data form, and messages."""

from helium_edge.chat.derive import Derived, derive
from helium_edge.chat.find import DEFAULT, TEMPLATE_FOLDER, ChatTemplates, find_templates
from helium_edge.chat.form import ChatForm, RoleForm, Span
from helium_edge.chat.messages import Message, check_messages, parse_messages
from helium_edge.chat.template import ChatTemplate

__all__ = [
    "DEFAULT", "TEMPLATE_FOLDER", "ChatForm", "ChatTemplate", "ChatTemplates", "Derived", "Message", "RoleForm",
    "Span", "check_messages", "derive", "find_templates", "parse_messages",
]  # fmt: skip
