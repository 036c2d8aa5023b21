"""A KV cache in a file, so that a host starts at once behind a long prompt.

A safetensors file: `ids` (n,) int32, and `layers.{i}.key` and `layers.{i}.value` (Hkv, n, D) in the type of the
cache. Its metadata has the `format`, its `version`, and the `bundle`: the sha256 of the manifest, which lists
those of all files, so that a cache of other weights is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from helium_edge import durable
from helium_edge.checkpoint.header import read_header
from helium_edge.documents import first_line, shorten
from helium_edge.errors import InputError, UsageError
from helium_edge.runtime.token_cache import TokenCache

FORMAT = "helium-edge/prompt-cache"
VERSION = "1"
_HINT = "make it again with --save-cache"
_DTYPES = {"int8": "I8", "float16": "F16", "float32": "F32"}

Array = npt.NDArray[Any]


def save_prompt_cache(path: Path, cache: TokenCache, bundle: str, *, tokens: int | None = None) -> int:
    """Write the first `tokens` of a cache, by default all, and return how many they are.

    Args:
        path: The file; it appears whole or not at all.
        cache: What to write.
        bundle: sha256 of the bundle's manifest.
        tokens: How many; more than the cache holds are all.

    Raises:
        UsageError: The cache is empty, or the file cannot be written.
    """
    count = len(cache.ids) if tokens is None else min(tokens, len(cache.ids))
    if count == 0:
        raise UsageError(f"{path}: nothing to save, the cache is empty")
    tensors: dict[str, Array] = {"ids": np.array(cache.ids[:count], np.int32)}
    for name, rows in _rows(cache, count).items():
        tensors[name] = np.ascontiguousarray(rows)
    metadata = {"format": FORMAT, "version": VERSION, "bundle": bundle}
    try:
        with durable.replacing(path) as new:
            save_file(tensors, str(new), metadata)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise UsageError(f"{path}: cannot be written: {reason}") from error
    return count


def load_prompt_cache(path: Path, cache: TokenCache, bundle: str) -> int:
    """Fill a cache from a file and return how many tokens it holds then; a file that is refused changes nothing.

    Args:
        path: Written by `save_prompt_cache`.
        cache: Of the same bundle.
        bundle: sha256 of the bundle's manifest.

    Raises:
        InputError: The file is missing, truncated, of another kind or of another bundle.
    """
    found = {name: (info.dtype, info.shape) for name, info in read_header(path).items()}
    try:
        with safe_open(str(path), framework="numpy") as file:
            _check_metadata(path, file.metadata() or {}, bundle)
            count = _count(path, found.get("ids"), cache)
            rows = _rows(cache, count)
            expected = {"ids": ("I32", (count,))} | {name: _spec(array) for name, array in rows.items()}
            if found != expected:
                name = min(found.items() ^ expected.items())[0]
                raise InputError(f"{path}: tensor {shorten(name)} does not fit the cache", hint=_HINT)
            ids = file.get_tensor("ids").tolist()
            bad = next((token for token in ids if not 0 <= token < cache.vocab_size), None)
            if bad is not None:
                raise InputError(
                    f"{path}: token id {bad} is outside the vocabulary of {cache.vocab_size}", hint=_HINT
                )
            cache.reset()
            for name, array in rows.items():
                array[...] = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: not readable: {first_line(error)}", hint=_HINT) from error
    cache.restore(ids)
    return count


def _check_metadata(path: Path, metadata: Mapping[str, str], bundle: str) -> None:
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: is no prompt cache of helium-edge", hint=_HINT)
    if metadata.get("version") != VERSION:
        version = shorten(repr(metadata.get("version")))
        raise InputError(f"{path}: version {version} of prompt caches is not known; known: {VERSION}", hint=_HINT)
    if metadata.get("bundle") != bundle:
        raise InputError(f"{path}: was saved with another bundle", hint=f"{_HINT}, with this bundle")


def _count(path: Path, ids: tuple[str, tuple[int, ...]] | None, cache: TokenCache) -> int:
    if ids is None or ids[0] != "I32" or len(ids[1]) != 1 or not 1 <= ids[1][0] <= cache.cache_len:
        raise InputError(f"{path}: has no list of 1 to {cache.cache_len} token ids", hint=_HINT)
    return ids[1][0]


def _rows(cache: TokenCache, count: int) -> dict[str, Array]:
    """Views of the first slots of each buffer, (Hkv, count, D), by the names that they have in a file."""
    views: dict[str, Array] = {}
    for index, buffer in enumerate(cache.cache_buffers):
        slots = buffer.reshape(buffer.shape[-3:])
        views[f"layers.{index // 2}.{'value' if index % 2 else 'key'}"] = slots[:, :count]
    return views


def _spec(array: Array) -> tuple[str, tuple[int, ...]]:
    return _DTYPES[array.dtype.name], array.shape
