"""Calibration of an int8 KV cache at export: which text, and what is kept of it in the bundle."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from helium_edge.bundle import CacheScalesSection
from helium_edge.bundle.kv_scales import KV_SCALES_FILE, write_kv_scales
from helium_edge.config import ModelConfig
from helium_edge.errors import UsageError
from helium_edge.model.kv_cache import KvScales
from helium_edge.progress import Progress
from helium_edge.quant import QuantizedStore
from helium_edge.quant.kv_calibration import CLIPPED_LIMIT, HEADROOM, calibrate
from helium_edge.recipe import Recipe
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.texts import (
    LANGUAGES,
    MIN_WINDOW_LEN,
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
        UsageError: The recipe has no int8 cache, or the model no cache at all.
    """
    if text is not None and recipe.kv_cache != "int8":
        raise UsageError(
            f"--calibration {text}: nothing of this export is calibrated",
            hint="a language model by a recipe with kv_cache: int8, such as onnx-int4-kv8, is",
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
    held = max(MIN_WINDOW_LEN, min(_HELD_OUT_OF_LARGE if large else _HELD_OUT, cache_len))
    others = evaluation_windows(tokenizer, window_len=held, max_windows_per_language=1)
    return CalibrationTexts(
        BUILT_IN if file is None else file.name,
        tuple(window.tokens for window in windows),
        tuple(window.tokens for window in others),
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


def calibration_warnings(scales: CacheScalesSection | None) -> tuple[str, ...]:
    """A line where other text exceeds the scales of a bundle's cache by more than it should."""
    if scales is None or scales.clipped <= CLIPPED_LIMIT:
        return ()
    share = (
        f"the int8 KV cache clips {scales.clipped:.2g} of its values on other text, more than {CLIPPED_LIMIT:g}"
    )
    return (f"{share}; most in {scales.worst}: calibrate on more of your own text with --calibration FILE",)
