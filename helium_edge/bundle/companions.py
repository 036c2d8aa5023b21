"""The files beside the graphs: tokenizer and configs of the checkpoint, and what onnxruntime-genai reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from helium_edge import durable
from helium_edge.bundle.sections import GenerationSection, TokenizerSection
from helium_edge.bundle.verify import GENAI_CONFIG
from helium_edge.config import ModelConfig
from helium_edge.documents import DocumentError, parse_json, read_document, shorten
from helium_edge.errors import CheckpointError
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.runtime.tokenizer_rules import read_tokenizer_file
from helium_edge.signature import ATTENTION_MASK, INPUT_IDS, LOGITS

if TYPE_CHECKING:
    from helium_edge.checkpoint import Checkpoint

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER = "tokenizer.json"
GENAI_GRAPH = "genai.onnx"

_MAX_GENERATION_BYTES = 1 << 20
_MAX_COMPANION_BYTES = 1 << 24
"""Of a file that is copied into the bundle without being read."""


def check_companions(checkpoint: Checkpoint) -> None:
    """Check the files beside the weights, so that a bad one is refused before hours of quantizing and not after.

    Raises:
        InputError: A file is missing, malformed or too large, or the tokenizer makes ids that the model lacks.
    """
    for path in checkpoint.tokenizer_files():
        size = path.stat().st_size
        if size > _MAX_COMPANION_BYTES:
            raise CheckpointError(f"{path.name}: {size} bytes are too many, the limit is {_MAX_COMPANION_BYTES}")
    generation_defaults(checkpoint)
    path = checkpoint.tokenizer_files()[0]
    largest, vocab = Tokenizer(path).largest_id, checkpoint.config.vocab_size
    if largest >= vocab:
        raise CheckpointError(
            f"{path.name}: has the token id {largest}, config.json says vocab_size = {vocab}",
            hint="the tokenizer and the weights are not of the same model",
        )
    tokenizer_facts(path, bos=checkpoint.config.bos_token_id)


def write_companions(checkpoint: Checkpoint, folder: Path) -> None:
    """Copy the tokenizer files, config.json and generation_config.json byte for byte; write the last if absent.

    Raises:
        CheckpointError: A file of the checkpoint cannot be read, or there is no tokenizer.json.
    """
    for source in checkpoint.tokenizer_files():
        _copy(source, folder / source.name)
    _copy(_config_file(checkpoint), folder / CONFIG)
    generation = checkpoint.find_file(GENERATION_CONFIG)
    if generation is not None:
        _copy(generation, folder / GENERATION_CONFIG)
    else:
        _write_json(folder / GENERATION_CONFIG, _generation_config(checkpoint.config))


def write_genai_config(config: ModelConfig, cache_len: int, folder: Path) -> None:
    """Write `genai_config.json` for `genai.onnx`, whose cache onnxruntime-genai shares between past and present.

    Written for onnxruntime-genai 0.18. Its `llama` stands for any decoder with these inputs and outputs; how
    positions are rotated is in the graph.
    """
    decoder = {
        "filename": GENAI_GRAPH,
        "head_size": config.head_dim,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "inputs": {
            "input_ids": INPUT_IDS,
            "attention_mask": ATTENTION_MASK,
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": LOGITS,
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "type": "llama",
        "context_length": cache_len,
        "vocab_size": config.vocab_size,
        "decoder": decoder,
        **_token_ids(config),
    }
    # It asks for a pad id even when nothing is ever padded, as with one sequence.
    if config.pad_token_id is None and config.eos_token_ids:
        model["pad_token_id"] = config.eos_token_ids[0]
    search = {
        "do_sample": False,
        "early_stopping": True,
        "max_length": cache_len,
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 1,
        "top_p": 1.0,
    }
    _write_json(folder / GENAI_CONFIG, {"model": model, "search": search})


def generation_defaults(checkpoint: Checkpoint) -> GenerationSection:
    """Sampling defaults that the checkpoint's generation_config.json sets; greedy without one.

    Raises:
        CheckpointError: The file is there and malformed.
    """
    path = checkpoint.find_file(GENERATION_CONFIG)
    if path is None:
        return GenerationSection()
    data = _read_json(path, _MAX_GENERATION_BYTES)
    known = {name: data[name] for name in GenerationSection.model_fields if data.get(name) is not None}
    try:
        return GenerationSection.model_validate(known)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise CheckpointError(f"{path.name}: {field} = {shorten(repr(first['input']))}: {first['msg']}") from error


def tokenizer_facts(path: Path, *, bos: int | None) -> tuple[TokenizerSection, bool]:
    """What a host must know of a tokenizer.json, and whether the file itself starts every text with `bos`.

    The template in the file decides, not a declared bos token: Helium declares none and prepends it all the same.

    Raises:
        InputError: Not a tokenizer.json.
    """
    data = read_tokenizer_file(path)
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
    return {"do_sample": False, **_token_ids(config)}


def _token_ids(config: ModelConfig) -> dict[str, Any]:
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


def _read_json(path: Path, limit: int) -> dict[str, Any]:
    try:
        data = parse_json(read_document(path, limit))
    except OSError as error:
        raise CheckpointError(f"{path.name}: cannot be read: {error.strerror}") from error
    except DocumentError as error:
        raise CheckpointError(f"{path.name}: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path.name}: the top level must be an object, found {type(data).__name__}")
    return data


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    durable.write_file(path, (json.dumps(data, sort_keys=True, indent=2) + "\n").encode("utf-8"))
