"""What an export reads: a checkpoint and the files beside its weights, checked before any work is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass

from helium_edge.bundle import (
    GENAI_GRAPH,
    ChatSection,
    Companions,
    beyond_genai,
    check_companions,
    generation_defaults,
)
from helium_edge.bundle.chat_template import chat_section, templates_of_checkpoint
from helium_edge.chat import ChatTemplates
from helium_edge.checkpoint import Checkpoint, ReadOptions, open_checkpoint
from helium_edge.errors import CheckpointError
from helium_edge.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class ExportSource:
    """A checkpoint that can be exported.

    Attributes:
        checkpoint: Its weights and config.
        companions: Its tokenizer and the rest.
        chat: How conversations read; None without a chat template.
    """

    checkpoint: Checkpoint
    companions: Companions
    chat: ChatSection | None = None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was ignored, replaced or guessed, a line each."""
        return (*self.checkpoint.warnings, *self.companions.warnings)

    def warnings_for(self, files: Collection[str]) -> tuple[str, ...]:
        """The same, and what hosts of a bundle cannot do.

        Args:
            files: Names of the files that the bundle will have.
        """
        return (*self.warnings, *_chat_warnings(self.chat), *_genai_warnings(self.checkpoint, files))


def _chat_warnings(chat: ChatSection | None) -> tuple[str, ...]:
    """A line where hosts without Jinja cannot chat, or not with a system message."""
    if chat is None or chat.reason is None:
        return ()
    if not chat.declarative:
        return (f"the chat template cannot be said as data, so that phones refuse to chat: {chat.reason}",)
    return (f"the chat template takes no system message: {chat.reason}",)


def _genai_warnings(checkpoint: Checkpoint, files: Collection[str]) -> tuple[str, ...]:
    """A line where onnxruntime-genai will generate otherwise than our hosts."""
    beyond = beyond_genai(generation_defaults(checkpoint)) if GENAI_GRAPH in files else ()
    if not beyond:
        return ()
    return (f"genai_config.json has no key for {', '.join(beyond)}: set them in the app, or do without",)


def open_source(
    source: str, *, revision: str | None, strict: bool = False, reading: ReadOptions | None = None
) -> ExportSource:
    """Open a checkpoint for an export.

    Args:
        source: Folder, Hub id or `helium-tiny`.
        revision: Of a Hub id.
        strict: Refuse one of which anything is ignored, replaced or guessed.
        reading: How to read it.

    Raises:
        InputError: It is unusable, or not as it stands where `strict` is set.
    """
    checkpoint = open_checkpoint(source, revision=revision, options=reading or ReadOptions())
    companions = check_companions(checkpoint)
    templates = (
        templates_of_checkpoint(checkpoint, companions.tokenizer.named)
        if checkpoint.config.task.has_cache
        else None
    )
    if templates is None:
        opened = ExportSource(checkpoint, companions)
    else:
        companions = dataclasses.replace(companions, warnings=(*companions.warnings, *templates.warnings))
        opened = ExportSource(checkpoint, companions, _chat(templates, checkpoint, companions))
    if strict and opened.warnings:
        more = len(opened.warnings) - 1
        raise CheckpointError(
            f"{opened.warnings[0]}{f' (and {more} more warnings)' if more else ''}",
            hint="this is refused because of --strict; without it, it is a warning",
        )
    return opened


def _chat(templates: ChatTemplates, checkpoint: Checkpoint, companions: Companions) -> ChatSection:
    path, *_ = checkpoint.tokenizer_files()
    tokenizer = Tokenizer(path, companions.tokenizer.content)
    return chat_section(templates, tokenizer, checkpoint.config.eos_token_ids)
