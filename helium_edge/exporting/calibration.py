"""Calibration at export, of weights and of an int8 KV cache: which text, and what is kept of it in the bundle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from helium_edge.bundle import CacheScalesSection, CalibrationSection
from helium_edge.bundle.kv_scales import KV_SCALES_FILE, write_kv_scales
from helium_edge.checkpoint import Checkpoint
from helium_edge.config import ModelConfig
from helium_edge.errors import UsageError
from helium_edge.model.kv_cache import KvScales
from helium_edge.model.weights import vector_names
from helium_edge.progress import Progress
from helium_edge.quant import QuantizedStore
from helium_edge.quant.calibrated import CalibratedStore
from helium_edge.quant.digests import tensor_digest
from helium_edge.quant.kv_calibration import CLIPPED_LIMIT, HEADROOM, calibrate
from helium_edge.quant.methods import CALIBRATED
from helium_edge.recipe import Calibration, Quantization, Recipe
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.texts import (
    LANGUAGES,
    MIN_WINDOW_LEN,
    Window,
    calibration_windows,
    evaluation_windows,
    read_windows,
)

BUILT_IN = "built-in, six languages"

WINDOW = 256
"""Tokens of one conversation."""

_LARGE = 200_000_000
"""Parameters from which on a token takes so long that a few hundred must do."""
_TOKENS, _TOKENS_OF_LARGE = 3072, 768
_HELD_OUT, _HELD_OUT_OF_LARGE = 128, 64
"""Tokens of each language, to see what is clipped."""

_TOKENS_A_CHANNEL = 2
"""Tokens for each channel of an input from which on its Hessian is worth much."""


@dataclass(frozen=True)
class CalibrationTexts:
    """Conversations as token ids, and where the first ones come from.

    Attributes:
        source: The built-in text, or a file by its name.
        texts: To calibrate on.
        held_out: To see what is clipped.
    """

    source: str
    texts: tuple[tuple[int, ...], ...]
    held_out: tuple[tuple[int, ...], ...]


def check_calibration(recipe: Recipe, text: Path | None) -> None:
    """Refuse a text that nothing is calibrated on.

    Raises:
        UsageError: The recipe calibrates no weights, and has no int8 cache, or the model no cache at all.
    """
    if text is not None and recipe.kv_cache != "int8" and recipe.quantization.method != CALIBRATED:
        raise UsageError(
            f"--calibration {text}: nothing of this export is calibrated",
            hint="weights are by a recipe with method: calibrated, such as onnx-int4, and not --fast, "
            "and the cache of a language model by one with kv_cache: int8",
        )


def calibration_texts(
    tokenizer: Tokenizer, config: ModelConfig, cache_len: int, file: Path | None
) -> CalibrationTexts:
    """Cut the text for a model: less of it for a large one.

    Args:
        tokenizer: Of the model.
        config: The model.
        cache_len: Most tokens of a conversation.
        file: As of `parity --text`; None is the built-in text. What is held out is the built-in text for parity.

    Raises:
        UsageError: The file cannot be read, or holds nothing to calibrate on.
    """
    large = config.num_parameters > _LARGE
    tokens, length = _TOKENS_OF_LARGE if large else _TOKENS, min(WINDOW, cache_len)
    if file is None:
        length = min(length, tokens // len(LANGUAGES))
        windows = calibration_windows(tokenizer, window_len=length, tokens=tokens)
    else:
        windows = read_windows(file, tokenizer, window_len=length, tokens=tokens)
    _check_ids(windows, config)
    held = max(MIN_WINDOW_LEN, min(_HELD_OUT_OF_LARGE if large else _HELD_OUT, cache_len))
    others = evaluation_windows(tokenizer, window_len=held, max_windows_per_language=1)
    return CalibrationTexts(
        BUILT_IN if file is None else file.name,
        tuple(window.tokens for window in windows),
        tuple(window.tokens for window in others),
    )


def open_store(
    checkpoint: Checkpoint, quantization: Quantization, folder: Path, tokenizer: Tokenizer, file: Path | None
) -> QuantizedStore:
    """The store of an export; of calibrated weights with the text that they are calibrated on, cut for the model.

    Args:
        checkpoint: The original.
        quantization: The recipe's.
        folder: Of the store.
        tokenizer: Of the model.
        file: As of `parity --text`; None is the built-in text.

    Raises:
        RecipeError: The rules do not fit the model.
        UsageError: The file cannot be read, or holds nothing to calibrate on.
    """
    if quantization.method != CALIBRATED:
        return QuantizedStore(checkpoint, quantization, folder)
    tokens = (quantization.calibration or Calibration()).tokens
    return CalibratedStore(
        checkpoint, quantization, folder, weight_texts(tokenizer, checkpoint.config, tokens, file)
    )


def weight_texts(
    tokenizer: Tokenizer, config: ModelConfig, tokens: int, file: Path | None
) -> list[tuple[int, ...]]:
    """Conversations to calibrate weights on, each at most `WINDOW` tokens.

    Args:
        tokenizer: Of the model.
        config: The model.
        tokens: About how many tokens there are to be.
        file: As of `parity --text`; None is the built-in text.

    Raises:
        UsageError: The file cannot be read, or holds nothing to calibrate on.
    """
    length = min(WINDOW, config.max_position_embeddings)
    if file is None:
        windows = calibration_windows(tokenizer, window_len=length, tokens=tokens)
    else:
        windows = read_windows(file, tokenizer, window_len=length, tokens=tokens)
    _check_ids(windows, config)
    return [window.tokens for window in windows]


def _check_ids(windows: Sequence[Window], config: ModelConfig) -> None:
    """Refuse a text that the model has no rows for, as of a tokenizer of another model.

    Raises:
        UsageError: It has a token that is none of the model's.
    """
    largest = max(max(window.tokens) for window in windows)
    if largest >= config.vocab_size:
        raise UsageError(
            f"the calibration text becomes token {largest}, and the model has {config.vocab_size} rows",
            hint="calibrate on other text with --calibration FILE, or take a recipe with method: mse",
        )


def calibration_section(
    store: QuantizedStore, source: Path | None, real: torch.dtype
) -> CalibrationSection | None:
    """What the manifest says of calibrated weights; None of others.

    Args:
        store: The store; it has been prepared.
        source: The file that the text comes from.
        real: Type in which the bundle's files hold real values.

    Raises:
        HeliumEdgeError: Whatever the store raises.
    """
    if not isinstance(store, CalibratedStore):
        return None
    digests = {name: tensor_digest(store.get(name), real) for name in store.names}
    digests |= {name: tensor_digest(store.vector(name), real) for name in vector_names(store.config)}
    return CalibrationSection(
        text=BUILT_IN if source is None else source.name,
        text_sha256=store.texts_sha256,
        tokens=store.tokens,
        damping=store.options.damping,
        rounds=store.options.rounds,
        folds=store.options.folds,
        digests=digests,
    )


def calibrate_cache(
    store: QuantizedStore, texts: CalibrationTexts, folder: Path, progress: Progress
) -> tuple[KvScales, CacheScalesSection]:
    """Calibrate, and write the scales into a bundle's folder.

    Returns:
        The scales, and what the manifest says of them.

    Raises:
        HeliumEdgeError: Whatever the store raises.
    """
    found = calibrate(store, texts.texts, texts.held_out, progress)
    write_kv_scales(found.scales, folder)
    digest = hashlib.sha256(json.dumps(texts.texts).encode()).hexdigest()
    section = CacheScalesSection.from_calibration(
        KV_SCALES_FILE, found, text=texts.source, text_sha256=digest, headroom=HEADROOM
    )
    return found.scales, section


def text_warnings(store: CalibratedStore) -> tuple[str, ...]:
    """A line where a text is short for the weights that are calibrated on it."""
    config = store.config
    widest = max(config.intermediate_size, config.hidden_size, config.num_attention_heads * config.head_dim)
    if store.tokens >= _TOKENS_A_CHANNEL * widest:
        return ()
    few = f"fewer than {_TOKENS_A_CHANNEL} for each of the {widest} channels of the widest input"
    more = "they get better with more text, --calibration FILE and the recipe's quantization.calibration.tokens"
    return (f"weights are calibrated on {store.tokens} tokens, {few}: {more}",)


def cache_warnings(scales: CacheScalesSection | None) -> tuple[str, ...]:
    """A line where other text exceeds the scales of a bundle's cache by more than it should."""
    if scales is None or scales.clipped <= CLIPPED_LIMIT:
        return ()
    share = (
        f"the int8 KV cache clips {scales.clipped:.2g} of its values on other text, more than {CLIPPED_LIMIT:g}"
    )
    return (f"{share}; most in {scales.worst}: calibrate on more of your own text with --calibration FILE",)
