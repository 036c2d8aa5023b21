"""One shard of the store: a few tensors in a file, written whole or not at all, checked when read.

A shard holds the scales of a weight, from which its codes follow by rounding, or codes and scales, where they do
not. A file that a crash of the machine damages is found out when it is read, and its numbers are looked for again;
so it need not be brought to the disk before the export goes on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from helium_edge.documents import parse_json
from helium_edge.durable import NO_SPACE, replacing
from helium_edge.errors import HeliumEdgeError, ResourceError, UsageError
from helium_edge.quant.affine import QuantizedWeight, group_count
from helium_edge.quant.packing import pack_codes, pack_nibbles, unpack_codes, unpack_nibbles
from helium_edge.recipe import Scheme

_METADATA = "helium_edge"
_PARTIAL = ".partial-"
_STALE_SECONDS = 3600.0
_NO_SPACE = NO_SPACE | {errno.ENOMEM}
_DAMAGE = (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError)


@dataclass(frozen=True, eq=False)
class FoundScales:
    """What a search found for a weight.

    Attributes:
        scales: (N, G) float32.
        zero_points: (N, G) int8, or None when symmetric.
        relative_error: How far the quantized weight is from the original (`affine.relative_error`).
    """

    scales: torch.Tensor
    zero_points: torch.Tensor | None
    relative_error: float


def tensor_hash(*tensors: torch.Tensor) -> str:
    """sha256 over the bytes of tensors, in order, as 64 hex digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_shard(
    path: Path, found: FoundScales, *, key: str, method: str, scheme: Scheme, shape: tuple[int, int]
) -> None:
    """Write a shard beside its place and rename it into place.

    Args:
        path: The file; its folder is created.
        found: What to write.
        key: Identity of input, scheme, method and code; `read_shard` asks for it.
        method: Name of the method, recorded.
        scheme: The format, recorded.
        shape: (N, K), recorded.

    Raises:
        ResourceError: The disk is full or fails; nothing is left behind.
        UsageError: The folder cannot be written.
    """
    tensors = _scale_tensors(found.scales, found.zero_points, scheme)
    _write(path, tensors, {
        "key": key, "method": method, "relative_error": found.relative_error, "scheme": str(scheme),
        "shape": list(shape),
    })  # fmt: skip


def read_shard(path: Path, *, key: str, scheme: Scheme, shape: tuple[int, int]) -> FoundScales | None:
    """Read a shard.

    Returns:
        None when it is absent, has another key, or is damaged in any way: scales are then to be found again.
    """
    try:
        tensors, facts = _read(path, key)
        scales, points = _scales_of(tensors, scheme, shape)
        return FoundScales(scales, points, float(facts["relative_error"]))
    except _DAMAGE:
        return None


def write_weight(
    path: Path, weight: QuantizedWeight, relative_error: float, *, key: str, facts: dict[str, Any]
) -> str:
    """Write a shard of codes and scales.

    Args:
        path: The file; its folder is created.
        weight: What to write.
        relative_error: See `FoundScales`.
        key: Identity of all that decides about the numbers.
        facts: More to be recorded.

    Returns:
        Hash of the content.

    Raises:
        ResourceError: The disk is full or fails; nothing is left behind.
        UsageError: The folder cannot be written.
    """
    tensors = {"codes": pack_codes(weight.codes, weight.scheme)}
    tensors |= _scale_tensors(weight.scales, weight.zero_points, weight.scheme)
    recorded = {"key": key, "relative_error": relative_error, "scheme": str(weight.scheme), **facts}
    return _write(path, tensors, {**recorded, "shape": list(weight.shape)})


def read_weight_shard(
    path: Path, *, key: str, scheme: Scheme, shape: tuple[int, int]
) -> tuple[QuantizedWeight, float, str] | None:
    """Read a shard of codes and scales.

    Returns:
        The weight, its relative error and the hash of the content; None as of `read_shard`.
    """
    try:
        tensors, facts = _read(path, key)
        codes = unpack_codes(tensors["codes"], scheme, shape[1])
        scales, points = _scales_of(tensors, scheme, shape)
        weight = QuantizedWeight(scheme, codes, scales, points)
        return weight, float(facts["relative_error"]), str(facts["content"])
    except _DAMAGE:
        return None


def write_vectors(path: Path, vectors: Mapping[str, torch.Tensor], *, key: str) -> str:
    """Write a shard of float32 vectors; returns and raises as `write_weight`."""
    return _write(path, dict(sorted(vectors.items())), {"key": key})


def read_vectors(path: Path, *, key: str) -> tuple[dict[str, torch.Tensor], str] | None:
    """Read a shard of vectors, and the hash of its content; None as of `read_shard`."""
    try:
        tensors, facts = _read(path, key)
        return tensors, str(facts["content"])
    except _DAMAGE:
        return None


def _scale_tensors(
    scales: torch.Tensor, zero_points: torch.Tensor | None, scheme: Scheme
) -> dict[str, torch.Tensor]:
    # Scales of 4-bit schemes are bfloat16 numbers: half the bytes, and the same numbers.
    tensors = {"scales": scales.to(torch.bfloat16) if scheme.bits == 4 else scales}
    if zero_points is not None:
        tensors["zero_points"] = pack_nibbles(zero_points.view(torch.uint8))
    return tensors


def _scales_of(
    tensors: Mapping[str, torch.Tensor], scheme: Scheme, shape: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Scales and zero points of a shard.

    Raises:
        ValueError: They do not fit.
        KeyError: They are missing.
    """
    expected = (shape[0], group_count(scheme, shape[1]))
    scales = tensors["scales"].to(torch.float32)
    points = None
    if not scheme.symmetric:
        points = unpack_nibbles(tensors["zero_points"], expected[1]).view(torch.int8)
    if tuple(scales.shape) != expected or (points is not None and tuple(points.shape) != expected):
        raise ValueError(f"scales {tuple(scales.shape)} where {expected} are expected")
    return scales, points


def _write(path: Path, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> str:
    content = tensor_hash(*tensors.values())
    # One entry: safetensors writes several in random order, and the same shard should be the same bytes.
    entry = {_METADATA: json.dumps({**facts, "content": content, "tensors": list(tensors)}, sort_keys=True)}
    data = save(tensors, metadata=entry)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise _write_error(error, path.parent, len(data)) from error
    return content


def _read(path: Path, key: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors and facts of a shard; raises one of `_DAMAGE` where they are not those of the key."""
    with safe_open(path, framework="pt") as file:
        facts = parse_json((file.metadata() or {})[_METADATA].encode("utf-8"))
        tensors = {name: file.get_tensor(name) for name in facts["tensors"]}
    if facts["key"] != key or facts["content"] != tensor_hash(*tensors.values()):
        raise ValueError("another key, or other numbers than were written")
    return tensors, facts


def _remove_stale(folder: Path) -> None:
    """Remove what killed runs left; a shard takes moments to write, so an hour spares runs at work."""
    for path in folder.glob(f"*{_PARTIAL}*"):
        if path.stat().st_mtime < time.time() - _STALE_SECONDS:
            path.unlink(missing_ok=True)


def _write_error(error: OSError, folder: Path, nbytes: int) -> HeliumEdgeError:
    if error.errno in _NO_SPACE:
        return ResourceError(
            f"{folder}: no space for the scales of a weight, {nbytes} bytes: {error.strerror}",
            hint="free space, or choose another folder; the scales already written are kept and used",
        )
    kind = ResourceError if error.errno == errno.EIO else UsageError
    return kind(f"{folder}: the scales of a weight cannot be written there: {error.strerror or error}")
