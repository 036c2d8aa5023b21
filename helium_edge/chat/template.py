"""The chat template of a checkpoint: found as transformers finds it, rendered in a process with limits."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from helium_edge.chat import worker
from helium_edge.chat.messages import Message
from helium_edge.documents import DocumentError, first_line, parse_json
from helium_edge.errors import CheckpointError, MissingDependencyError, UsageError

TEMPLATE_FILE = "chat_template.jinja"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"

MAX_TEMPLATE_BYTES = 1 << 18
MAX_CONFIG_BYTES = 1 << 24
MAX_CHARACTERS = 1 << 22
"""Of one rendered conversation."""
MAX_MEMORY = 1 << 30
MAX_SECONDS = 20

_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

ReadFile = Callable[[str, int], bytes | None]
"""Content of a file of the checkpoint of at most so many bytes; None where there is none of that name."""


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


def find_template(read: ReadFile) -> ChatTemplate | None:
    """The template of a checkpoint; None where it has none.

    `chat_template.jinja` wins over `tokenizer_config.json`, as in transformers; of named templates `default` is
    taken.

    Args:
        read: Reads a file of the checkpoint.

    Raises:
        CheckpointError: A file is malformed, or no template is called `default`.
    """
    data = read(TOKENIZER_CONFIG, MAX_CONFIG_BYTES)
    config = {} if data is None else _object(data, TOKENIZER_CONFIG)
    own = read(TEMPLATE_FILE, MAX_TEMPLATE_BYTES)
    text = _decoded(own) if own is not None else _of_config(config.get("chat_template"))
    if text is None:
        return None
    if len(text.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
        raise CheckpointError(f"{TOKENIZER_CONFIG}: the chat template has more than {MAX_TEMPLATE_BYTES} bytes")
    special = read(SPECIAL_TOKENS, MAX_CONFIG_BYTES)
    return ChatTemplate(text, _variables(config, {} if special is None else _object(special, SPECIAL_TOKENS)))


def _of_config(found: Any) -> str | None:
    where = f"{TOKENIZER_CONFIG}: chat_template"
    if found is None or isinstance(found, str):
        return found
    if isinstance(found, list):
        pairs = [(item.get("name"), item.get("template")) for item in found if isinstance(item, dict)]
        found = dict(pairs) if len(pairs) == len(found) else None
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise CheckpointError(f"{where} must be a text, or a list of named templates")
    if "default" not in found:
        names = ", ".join(sorted(map(str, found))) or "none"
        raise CheckpointError(f"{where}: no template is called default; found {names}")
    return str(found["default"])


def _variables(config: Mapping[str, Any], special: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens, as strings or as objects with a content."""
    found = dict(_LLAMA) if str(config.get("tokenizer_class")).startswith("LlamaTokenizer") else {}
    for source in (special, config):
        for name in _NAMES:
            value = source.get(name)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                found[name] = value
    return found


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{TEMPLATE_FILE}: is no UTF-8: {first_line(error)}") from error


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        found = parse_json(data)
    except DocumentError as error:
        raise CheckpointError(f"{name}: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{name}: the top level must be an object")
    return found
