"""The chat templates of a checkpoint or a bundle, found where transformers finds them, by their names.

Source: transformers 5.24 `tokenization_utils_base.py` (`_from_pretrained`, `get_chat_template`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from helium_edge.chat.template import ChatTemplate
from helium_edge.documents import DocumentError, first_line, parse_json, shorten
from helium_edge.errors import CheckpointError

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_FOLDER = "additional_chat_templates"
"""Where named templates are, each a file `NAME.jinja`."""
TOKENIZER_CONFIG = "tokenizer_config.json"

DEFAULT = "default"
"""Name of the template that is taken where none is asked for."""

MAX_TEMPLATE_BYTES = 1 << 18
MAX_CONFIG_BYTES = 1 << 24
MAX_TEMPLATES = 64

ReadFile = Callable[[str, int], bytes | None]
"""Content of a file of the checkpoint of at most so many bytes; None where there is none of that name."""


@dataclass(frozen=True)
class ChatTemplates:
    """All templates of a checkpoint.

    Attributes:
        by_name: Each by its name, `default` among them or not; at least one.
        files: The file that each is in, by the same names.
        warnings: Where files disagree, a line each.
    """

    by_name: Mapping[str, ChatTemplate]
    files: Mapping[str, str]
    warnings: tuple[str, ...] = ()

    @property
    def default(self) -> ChatTemplate | None:
        """The one that is taken where none is asked for; None where only others are there."""
        return self.by_name.get(DEFAULT)

    @property
    def names(self) -> str:
        """All names, for a message."""
        return ", ".join(map(shorten, sorted(self.by_name)))


def find_templates(
    read: ReadFile, additional: Iterable[str] = (), variables: Mapping[str, str] | None = None
) -> ChatTemplates | None:
    """The templates of a checkpoint; None where it has none.

    As in transformers, files of templates win over `tokenizer_config.json`, all of whose templates then go.

    Args:
        read: Reads a file of the checkpoint.
        additional: Names of the files in `additional_chat_templates`, each `NAME.jinja`.
        variables: What templates see beside the messages: special tokens by name, as `bos_token`.

    Raises:
        CheckpointError: A file is malformed, or there are too many.
    """
    data = read(TOKENIZER_CONFIG, MAX_CONFIG_BYTES)
    config = {} if data is None else _object(data, TOKENIZER_CONFIG)
    declared = _of_config(config.get("chat_template"))
    places = {DEFAULT: TEMPLATE_FILE}
    places |= {name.removesuffix(".jinja"): f"{TEMPLATE_FOLDER}/{name}" for name in sorted(additional)}
    contents = {name: read(place, MAX_TEMPLATE_BYTES) for name, place in places.items()}
    texts = {name: _decoded(data, places[name]) for name, data in contents.items() if data is not None}
    files = {name: places[name] for name in texts} or dict.fromkeys(declared, TOKENIZER_CONFIG)
    warnings = _lost(declared, texts) if texts else ()
    texts = texts or declared
    if len(texts) > MAX_TEMPLATES:
        where = TEMPLATE_FOLDER if files[next(iter(texts))] != TOKENIZER_CONFIG else TOKENIZER_CONFIG
        raise CheckpointError(f"{where}: {len(texts)} chat templates are too many, the limit is {MAX_TEMPLATES}")
    if not texts:
        return None
    return ChatTemplates(
        {name: ChatTemplate(text, variables or {}) for name, text in texts.items()}, files, warnings
    )


def _of_config(found: Any) -> dict[str, str]:
    """Templates of `tokenizer_config.json` by name."""
    where = f"{TOKENIZER_CONFIG}: chat_template"
    if found is None:
        return {}
    if isinstance(found, str):
        found = {DEFAULT: found}
    if isinstance(found, list):
        pairs = [(item.get("name"), item.get("template")) for item in found if isinstance(item, dict)]
        found = dict(pairs) if len(pairs) == len(found) else None
    if not isinstance(found, dict) or not all(isinstance(text, str) for pair in found.items() for text in pair):
        raise CheckpointError(f"{where} must be a text, or a list of named templates")
    for text in found.values():
        if len(text.encode("utf-8", "surrogatepass")) > MAX_TEMPLATE_BYTES:
            raise CheckpointError(f"{where} has more than {MAX_TEMPLATE_BYTES} bytes")
    return found


def _lost(declared: Mapping[str, str], texts: Mapping[str, str]) -> tuple[str, ...]:
    """A line where templates of `tokenizer_config.json` are not those of the files that win over them."""
    lost = [name for name in sorted(declared) if declared[name] != texts.get(name)]
    if not lost:
        return ()
    names = ", ".join(map(shorten, lost[:6])) + (", ..." if len(lost) > 6 else "")
    winner = TEMPLATE_FILE if DEFAULT in texts else TEMPLATE_FOLDER
    return (
        f"{TOKENIZER_CONFIG}: chat_template ({names}) is not that of {winner}, which wins, as in transformers",
    )


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{name}: is no UTF-8: {first_line(error)}") from error


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        found = parse_json(data)
    except DocumentError as error:
        raise CheckpointError(f"{name}: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{name}: the top level must be an object")
    return found
