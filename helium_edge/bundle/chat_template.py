"""The chat templates of a checkpoint or a bundle, and the section of the manifest that they come to.

Apart from `chat_section`, because reading a manifest must not load what reading a checkpoint takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from helium_edge.bundle.chat_section import ChatSection
from helium_edge.chat import TEMPLATE_FOLDER, ChatTemplate, ChatTemplates, derive, find_templates
from helium_edge.checkpoint import TOKENIZER_FILES, Checkpoint
from helium_edge.documents import DocumentError, read_document
from helium_edge.errors import CheckpointError
from helium_edge.runtime.spans import SpanEncoder
from helium_edge.runtime.token_files import read_declared
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.runtime.tokenizer_rules import read_tokenizer_file

MAX_CHAT_CHARACTERS = 1 << 16
"""Of everything that a template itself writes; the manifest has to stay small."""


def templates_of_checkpoint(checkpoint: Checkpoint, named: Mapping[str, str]) -> ChatTemplates | None:
    """The templates among the files of a checkpoint; None where there are none.

    Args:
        checkpoint: Whose files are read.
        named: Its special tokens by name, which templates may write.

    Raises:
        CheckpointError: A file of them is malformed.
    """
    return find_templates(
        _reader(checkpoint.find_file), [path.name for path in checkpoint.template_files()], named
    )


def chat_section(templates: ChatTemplates, tokenizer: Tokenizer, eos: Collection[int]) -> ChatSection:
    """The section of a checkpoint: its default template as data, and the names of all.

    Args:
        templates: Of the checkpoint.
        tokenizer: The bundle's.
        eos: Ids that end a text.
    """
    if templates.default is None:
        reason = f"no template is called default; found {templates.names}"
        section = ChatSection(declarative=False, reason=reason, stop=tuple(sorted(eos)))
    else:
        section = section_of(templates.default, tokenizer, eos)
    return section.model_copy(update={"templates": dict(templates.files)})


def section_of(template: ChatTemplate, tokenizer: Tokenizer, eos: Collection[int]) -> ChatSection:
    """One template as data; see `chat_section`."""
    derived = derive(template)
    form = derived.form
    if form is None:
        return ChatSection(declarative=False, reason=derived.reason, stop=tuple(sorted(eos)))
    if sum(map(len, form.fixed_texts())) > MAX_CHAT_CHARACTERS:
        reason = f"it writes more than {MAX_CHAT_CHARACTERS} characters of its own"
        return ChatSection(declarative=False, reason=reason, stop=tuple(sorted(eos)))
    encoder = SpanEncoder(tokenizer, form.fixed_texts(), eos)
    end = encoder.first_special(form.assistant.after.lstrip())
    return ChatSection.from_form(form, derived.reason, {*eos, *(() if end is None else (end,))})


def templates_of_bundle(folder: Path) -> ChatTemplates | None:
    """The templates among the files of a bundle; None where there are none.

    Raises:
        InputError: A file of them is malformed.
    """

    def find(name: str) -> Path | None:
        path = folder / name
        return path if path.is_file() and not path.is_symlink() else None

    names = [path.name for path in (folder / TEMPLATE_FOLDER).glob("*.jinja")]
    files = {name: path for name in TOKENIZER_FILES if (path := find(name)) is not None}
    declared = read_declared(files, read_tokenizer_file(folder / TOKENIZER_FILES[0]))
    return find_templates(_reader(find), names, declared.named)


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
