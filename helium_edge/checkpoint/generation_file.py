"""`generation_config.json` as transformers applies it, and how its token ids join those of config.json.

Settings that hosts implement become `GenerationFile.settings`, with the values that transformers has where the
file is silent; what no host implements is named. No graph depends on any of it, so a value that means nothing here
is replaced, with a warning, and stops no export; a value of the wrong type does.

Source: transformers 5.24 `generation/configuration_utils.py` (`GenerationConfig`) and `generation/utils.py`
(`_prepare_generation_config`, `_get_logits_processor`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helium_edge.checkpoint.files import read_object
from helium_edge.checkpoint.sampling_values import TOKEN_IDS, Values, legacy_settings, read_settings
from helium_edge.config import NO_TOKEN, ModelConfig

GENERATION_CONFIG = "generation_config.json"

_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class GenerationFile:
    """What a checkpoint says of generation.

    Attributes:
        path: The file; None where there is none, and everything is at its default.
        settings: By the names of the manifest's section `generation`; what is absent is at its default.
        unsupported: Names of settings that would change what is generated and that no host implements.
        stop: Ids that end generation; None where the file names none.
        bos: Id that begins a text; None where the file names none.
        pad: Id of padding, likewise.
        warnings: What was replaced, left out or joined, a line each.
    """

    path: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    unsupported: tuple[str, ...] = ()
    stop: tuple[int, ...] | None = None
    bos: int | None = None
    pad: int | None = None
    warnings: tuple[str, ...] = ()

    def apply(self, config: ModelConfig) -> ModelConfig:
        """The config with the ids that hold for a language model: every stop id of both files.

        Other models generate nothing, and are padded as config.json says.
        """
        if not config.task.has_cache:
            return config
        return dataclasses.replace(
            config,
            eos_token_ids=tuple(dict.fromkeys((*config.eos_token_ids, *(self.stop or ())))),
            bos_token_id=config.bos_token_id if self.bos is None else self.bos,
            pad_token_id=config.pad_token_id if self.pad is None else self.pad,
        )


NO_FILE = GenerationFile()
"""Of a checkpoint that says nothing."""


def read_generation_file(path: Path | None, config: ModelConfig, config_path: Path) -> GenerationFile:
    """Read a `generation_config.json`, or the settings that older checkpoints keep in `config.json`.

    Args:
        path: The file; None is a checkpoint without one.
        config: What config.json says.
        config_path: Where it is; transformers takes settings from there where there is no other file.

    Raises:
        CheckpointError: It is unreadable, or a value is of the wrong type; the field is named.
    """
    if path is None:
        values = Values(legacy_settings(read_object(config_path, _MAX_BYTES)), config_path.name)
        settings, unsupported = read_settings(values)
        return _finished(values, GenerationFile(None, settings, unsupported))
    values = Values(read_object(path, _MAX_BYTES), path.name)
    settings, unsupported = read_settings(values)
    ids = {name: _ids(values, name, config.vocab_size) for name in TOKEN_IDS}
    bos, pad = (found[0] if (found := ids[name]) else None for name in ("bos_token_id", "pad_token_id"))
    stop = ids["eos_token_id"]
    if config.task.has_cache:
        _compare(values, "bos_token_id", config.bos_token_id, bos)
        _compare(values, "pad_token_id", config.pad_token_id, pad)
        _compare_stop(values, config, stop)
    return _finished(values, GenerationFile(path, settings, unsupported, stop, bos, pad))


def _finished(values: Values, found: GenerationFile) -> GenerationFile:
    """With all lines that are to be said of it."""
    if found.unsupported:
        shown = ", ".join(f"{name} = {values.shown(name)}" for name in found.unsupported)
        values.warn(
            f"{shown}: not implemented by any host, so left out; the text will differ from that of transformers"
        )
    return dataclasses.replace(found, warnings=tuple(values.warnings))


def _compare(values: Values, name: str, ours: int | None, theirs: int | None) -> None:
    """Say so where two files name two tokens, neither of which changes what is generated from a prompt."""
    if theirs is not None and ours is not None and ours != theirs:
        values.warn(f"{name} = {theirs} is taken, as by transformers; config.json says {ours}")


def _compare_stop(values: Values, config: ModelConfig, stop: tuple[int, ...] | None) -> None:
    """Say so where transformers would not stop at an id of config.json, and hosts will."""
    lost = [index for index in config.eos_token_ids if index not in (stop or ())]
    if lost and (stop is not None or values.given("eos_token_id")):
        ids = ", ".join(map(str, lost))
        values.warn(f"eos_token_id leaves out {ids} of config.json; generation stops at the ids of both")


def _ids(values: Values, name: str, vocab_size: int) -> tuple[int, ...] | None:
    """Token ids of a field; those that the model cannot return are left out, and named."""
    found = values.get(name)
    if found is None:
        return None
    listed = found if isinstance(found, list) and name == "eos_token_id" else [found]
    for value in listed:
        if type(value) is not int:
            raise values.fail(name, "a token id" if name != "eos_token_id" else "a token id or a list of them")
    good = tuple(dict.fromkeys(value for value in listed if 0 <= value < vocab_size))
    none = [value for value in listed if value == NO_TOKEN]
    bad = [value for value in listed if value not in good and value != NO_TOKEN]
    if none:
        values.warn(f"{name} = {NO_TOKEN} is no token; taken as none")
    if bad:
        rows = f"outside the {vocab_size} rows of the embedding, so it is left out"
        values.warn(f"{name} holds {', '.join(map(str, bad[:5]))}, {rows}")
    return good or None
