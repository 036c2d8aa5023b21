"""The files beside the graphs: tokenizer and configs of the checkpoint.

Which file wins where two of them speak of one fact is written down in docs/checkpoints.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helium_edge import durable
from helium_edge.bundle.sections import GenerationSection, TokenizerSection
from helium_edge.config import ModelConfig
from helium_edge.documents import shorten
from helium_edge.errors import CheckpointError
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.runtime.tokenizer_merge import MergedTokenizer, merge_tokenizer
from helium_edge.runtime.tokenizer_rules import MAX_TOKENIZER_BYTES, read_tokenizer_file

if TYPE_CHECKING:
    from helium_edge.checkpoint import Checkpoint

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer.json"

_MAX_COMPANION_BYTES = 1 << 24
"""Of a file that is copied into the bundle without being read."""

MAX_FORBIDDEN = 4096
"""Tokens without a row that a manifest lists."""


@dataclass(frozen=True)
class Companions:
    """The files beside the weights, checked and brought together.

    Attributes:
        tokenizer: One tokenizer out of all files that name tokens.
        forbidden: Ids that it makes and the model has no row for, ascending.
        notes: What was merged, a line each.
        warnings: What the user should know, a line each.
    """

    tokenizer: MergedTokenizer
    forbidden: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def check_companions(checkpoint: Checkpoint) -> Companions:
    """Check the files beside the weights, so that a bad one is refused before hours of quantizing and not after.

    Raises:
        InputError: A file is missing, malformed or too large, or the tokenizer makes ids of ordinary text that the
            model lacks.
    """
    files = {path.name: path for path in checkpoint.tokenizer_files()}
    for path in files.values():
        limit = MAX_TOKENIZER_BYTES if path.name == TOKENIZER else _MAX_COMPANION_BYTES
        size = path.stat().st_size
        if size > limit:
            raise CheckpointError(f"{path.name}: {size} bytes are too many, the limit is {limit}")
    merged = merge_tokenizer(files)
    forbidden = _forbidden(checkpoint, merged, Tokenizer(files[TOKENIZER], merged.content))
    tokenizer_facts(files[TOKENIZER], bos=checkpoint.config.bos_token_id)
    rows = checkpoint.config.vocab_size
    lines = list(merged.warnings)
    if forbidden:
        shown = ", ".join(f"{shorten(merged.added[index])} ({index})" for index in forbidden[:6])
        more = f" and {len(forbidden) - 6} more" if len(forbidden) > 6 else ""
        lines.append(
            f"{TOKENIZER}: no row of the embedding ({rows} rows) for {shown}{more}; texts that hold it are refused"
        )
    lines += _silent_end(checkpoint, merged)
    return Companions(merged, forbidden, merged.notes, tuple(lines))


def _forbidden(checkpoint: Checkpoint, merged: MergedTokenizer, tokenizer: Tokenizer) -> tuple[int, ...]:
    """Added tokens without a row; refused where ordinary text needs one."""
    rows = checkpoint.config.vocab_size
    if tokenizer.largest_id < rows:
        return ()
    beyond = tuple(index for index in sorted(merged.added) if index >= rows)
    ordinary = tokenizer.ids_from(rows) - set(beyond)
    if ordinary or len(beyond) > MAX_FORBIDDEN:
        index = min(ordinary or beyond)
        first = f"{shorten(repr(tokenizer.text_of(index)))} ({index})"
        few = len(ordinary or beyond)
        which = f"the token {first} has" if few == 1 else f"{few} tokens from {first} on have"
        raise CheckpointError(
            f"{TOKENIZER}: has the token id {tokenizer.largest_id}, config.json says vocab_size = {rows}",
            hint=f"{which} no row in the embedding: the tokenizer is of another model, or the embedding was not "
            "resized",
        )
    always = next((index for index in tokenizer.encode("") if index >= rows), None)
    if always is not None:
        raise CheckpointError(
            f"{TOKENIZER}: puts {shorten(repr(merged.added.get(always)))} ({always}) into every text, and the "
            f"embedding has {rows} rows",
            hint="call resize_token_embeddings in transformers, train the row, and save the model again",
        )
    return beyond


def _silent_end(checkpoint: Checkpoint, merged: MergedTokenizer) -> list[str]:
    """A line where the tokenizer's end token ends no generation, as it does not in transformers either."""
    text = merged.named.get("eos_token")
    index = next((index for index, content in merged.added.items() if content == text), None)
    config = checkpoint.config
    if index is None or not config.task.has_cache or index in config.eos_token_ids:
        return []
    ends = ", ".join(map(str, config.eos_token_ids)) or "none"
    line = (
        f"the tokenizer's eos_token {shorten(text or '')} ({index}) is not among the ids that end "
        f"generation ({ends}), as in transformers; --generation-config with eos_token_id adds it"
    )
    return [line]


def write_companions(checkpoint: Checkpoint, folder: Path, merged: MergedTokenizer | None = None) -> None:
    """Copy tokenizer, chat templates, config.json and generation_config.json byte for byte, or write the last.

    Args:
        checkpoint: Where they are.
        folder: Of the bundle.
        merged: The tokenizer to write in place of the checkpoint's own; None copies that.

    Raises:
        CheckpointError: A file of the checkpoint cannot be read, or there is no tokenizer.json.
    """
    for source in checkpoint.tokenizer_files():
        if source.name == TOKENIZER and merged is not None and merged.merged_from:
            durable.write_file(folder / TOKENIZER, merged.content)
        else:
            _copy(source, folder / source.name)
    for source in checkpoint.template_files():
        (folder / source.parent.name).mkdir(exist_ok=True)
        _copy(source, folder / source.parent.name / source.name)
    _copy(_config_file(checkpoint), folder / CONFIG)
    generation = checkpoint.generation.path
    if generation is not None:
        _copy(generation, folder / GENERATION_CONFIG)
    else:
        settings = dict(checkpoint.generation.settings)
        write_json(folder / GENERATION_CONFIG, {**_generation_config(checkpoint.config), **settings})


def generation_defaults(checkpoint: Checkpoint) -> GenerationSection:
    """Defaults of generation that the checkpoint sets; greedy without any."""
    return GenerationSection.from_file(checkpoint.generation)


def tokenizer_facts(path: Path, *, bos: int | None, content: bytes | None = None) -> tuple[TokenizerSection, bool]:
    """What a host must know of a tokenizer.json, and whether the file itself starts every text with `bos`.

    The template in the file decides, not a declared bos token: Helium declares none and prepends it all the same.

    Args:
        path: The file.
        bos: Id of the token that begins a text.
        content: What to read in place of the file.

    Raises:
        InputError: Not a tokenizer.json.
    """
    data = read_tokenizer_file(path, content)
    model = data.get("model")
    kind = model.get("type") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(kind, str):
        raise CheckpointError(f"{path.name}: has no model.type, so it is no tokenizer of the tokenizers library")
    section = TokenizerSection(file=path.name, kind=kind.lower(), byte_fallback=model.get("byte_fallback") is True)
    return section, bos is not None and bos in _leading_ids(data.get("post_processor"))


def _leading_ids(processor: Any) -> list[Any]:
    """Ids that a post-processor puts in front of a text."""
    if not isinstance(processor, dict):
        return []
    if processor.get("type") == "Sequence":
        return [token for part in processor.get("processors", []) for token in _leading_ids(part)]
    ids: list[Any] = []
    for piece in processor.get("single") or []:
        token = piece.get("SpecialToken") if isinstance(piece, dict) else None
        if not isinstance(token, dict):
            break
        known = processor.get("special_tokens")
        found = known.get(str(token.get("id"))) if isinstance(known, dict) else None
        listed = found.get("ids") if isinstance(found, dict) else None
        ids += listed if isinstance(listed, list) else []
    return ids


def _generation_config(config: ModelConfig) -> dict[str, Any]:
    return {"do_sample": False, **token_ids(config)}


def token_ids(config: ModelConfig) -> dict[str, Any]:
    """Special ids under the names of Hugging Face configs; what the model lacks is left out."""
    eos = config.eos_token_ids
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos[0] if len(eos) == 1 else list(eos) or None,
        "pad_token_id": config.pad_token_id,
    }
    return {name: value for name, value in ids.items() if value is not None}


def _config_file(checkpoint: Checkpoint) -> Path:
    path = checkpoint.find_file(CONFIG)
    if path is None:
        raise CheckpointError(f"{checkpoint.folder / CONFIG}: is gone")
    return path


def _copy(source: Path, target: Path) -> None:
    try:
        durable.copy_file(source, target)
    except OSError as error:
        if error.filename != str(source):
            raise  # about the target: the writer of the bundle explains it
        raise CheckpointError(f"{source.name}: not readable: {error.strerror}") from error


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write a file of settings."""
    durable.write_file(path, (json.dumps(data, sort_keys=True, indent=2) + "\n").encode("utf-8"))
