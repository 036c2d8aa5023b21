"""The chat template of a checkpoint or a bundle, and the section of the manifest that it comes to.

Apart from `chat_section`, because reading a manifest must not load what reading a checkpoint takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from helium_edge.bundle.chat_section import ChatSection
from helium_edge.chat import ChatTemplate, derive, find_template
from helium_edge.checkpoint import Checkpoint
from helium_edge.documents import DocumentError, read_document
from helium_edge.errors import CheckpointError
from helium_edge.runtime.spans import SpanEncoder
from helium_edge.runtime.tokenizer import Tokenizer

MAX_CHAT_CHARACTERS = 1 << 16
"""Of everything that a template itself writes; the manifest has to stay small."""


def chat_section(checkpoint: Checkpoint, tokenizer: Tokenizer, eos: Collection[int]) -> ChatSection | None:
    """The section of a checkpoint; None where it has no chat template.

    Args:
        checkpoint: Whose template is taken.
        tokenizer: The bundle's.
        eos: Ids that end a text.

    Raises:
        CheckpointError: A file of the template is malformed.
    """
    template = find_template(_reader(checkpoint.find_file))
    if template is None:
        return None
    derived = derive(template)
    form = derived.form
    if form is not None and sum(map(len, form.fixed_texts())) > MAX_CHAT_CHARACTERS:
        return ChatSection(
            declarative=False, reason=f"it writes more than {MAX_CHAT_CHARACTERS} characters of its own"
        )
    if form is None:
        return ChatSection(declarative=False, reason=derived.reason, stop=tuple(sorted(eos)))
    encoder = SpanEncoder(tokenizer, form.fixed_texts(), eos)
    end = encoder.first_special(form.assistant.after.lstrip())
    return ChatSection.from_form(form, derived.reason, {*eos, *(() if end is None else (end,))})


def template_of_bundle(folder: Path) -> ChatTemplate | None:
    """The template among the files of a bundle.

    Raises:
        CheckpointError: A file of it is malformed.
    """

    def find(name: str) -> Path | None:
        path = folder / name
        return path if path.is_file() and not path.is_symlink() else None

    return find_template(_reader(find))


def _reader(find: Callable[[str], Path | None]) -> Callable[[str, int], bytes | None]:
    def read(name: str, limit: int) -> bytes | None:
        path = find(name)
        try:
            return None if path is None else read_document(path, limit)
        except OSError as error:
            raise CheckpointError(f"{name}: cannot be read: {error.strerror}") from error
        except DocumentError as error:
            raise CheckpointError(f"{name}: {error}") from error

    return read
