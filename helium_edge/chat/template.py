"""A chat template, rendered in a process with limits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from helium_edge.chat import worker
from helium_edge.chat.messages import Message
from helium_edge.errors import MissingDependencyError, UsageError

MAX_CHARACTERS = 1 << 22
"""Of one rendered conversation."""
MAX_MEMORY = 1 << 30
MAX_SECONDS = 10


class TemplateError(Exception):
    """A template that cannot be rendered, or only for other conversations; the message is one line."""


@dataclass(frozen=True)
class Request:
    """A conversation to render.

    Args:
        messages: Its messages.
        add_generation_prompt: Whether an answer is to follow.
        now: What templates that write the date take it from; None is the clock.
    """

    messages: Sequence[Message]
    add_generation_prompt: bool = True
    now: datetime | None = None


@dataclass(frozen=True)
class ChatTemplate:
    """A template and what it sees beside the messages.

    Args:
        text: The Jinja source.
        variables: Special tokens by name, as `bos_token`.
        seconds: Wall time that rendering may take.
    """

    text: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = MAX_SECONDS

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """The text of a conversation, as `apply_chat_template` of transformers gives it.

        Raises:
            UsageError: The template refuses the conversation, or cannot be rendered within the limits.
        """
        try:
            found = self.render_all([Request(messages, add_generation_prompt)])[0]
        except TemplateError as error:
            raise UsageError(f"the chat template cannot be used: {error}") from error
        if isinstance(found, TemplateError):
            raise UsageError(f"the chat template refuses this conversation: {found}")
        return found

    def render_all(self, requests: Sequence[Request]) -> list[str | TemplateError]:
        """Texts of several conversations, or why there is none, in one process.

        Raises:
            TemplateError: The template itself is wrong, or a limit was reached.
            MissingDependencyError: jinja2 is not installed.
        """
        task = {
            "path": sys.path,
            "template": self.text,
            "variables": dict(self.variables),
            "characters": MAX_CHARACTERS,
            "memory": MAX_MEMORY,
            "seconds": int(self.seconds) + 1,
            "requests": [
                {
                    "messages": list(request.messages),
                    "add_generation_prompt": request.add_generation_prompt,
                    "now": request.now.isoformat() if request.now else None,
                }
                for request in requests
            ],
        }
        answer = _ask(task, self.seconds)
        if "fault" in answer:
            raise TemplateError(str(answer["fault"]))
        return [_result(result) for result in answer["results"]]


def _result(result: Mapping[str, str]) -> str | TemplateError:
    return result["text"] if "text" in result else TemplateError(result["error"])


def _ask(task: dict[str, Any], seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-I", str(Path(worker.__file__))]
    try:
        done = subprocess.run(command, input=json.dumps(task).encode(), capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired as error:
        raise TemplateError(f"it takes more than {seconds:g} seconds") from error
    except OSError as error:
        raise TemplateError(f"no process can be started for it: {error.strerror}") from error
    if done.returncode == 0:
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
    if "No module named 'jinja2'" in lines[-1]:
        raise MissingDependencyError("jinja2", extra="all", purpose="a chat template")
    if done.returncode < 0 or "MemoryError" in lines[-1]:
        raise TemplateError("it needs too much time or memory")
    raise TemplateError(f"it cannot be rendered: {lines[-1][:300]}")
