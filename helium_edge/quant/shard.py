"""One shard of the store: the scales of a weight in a file, written whole or not at all, checked when read.

A file that a crash of the machine damages is found out when it is read, and its scales are looked for again; so it
need not be brought to the disk before the export goes on.
"""

from __future__ import annotations

import errno
import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from helium_edge.documents import parse_json
from helium_edge.durable import NO_SPACE, replacing
from helium_edge.errors import HeliumEdgeError, ResourceError, UsageError
from helium_edge.quant.affine import group_count
from helium_edge.quant.packing import pack_nibbles, unpack_nibbles
from helium_edge.recipe import Scheme

_METADATA = "helium_edge"
_PARTIAL = ".partial-"
_STALE_SECONDS = 3600.0
_NO_SPACE = NO_SPACE | {errno.ENOMEM}


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
    # Scales of 4-bit schemes are bfloat16 numbers: half the bytes, and the same numbers.
    scales = found.scales.to(torch.bfloat16) if scheme.bits == 4 else found.scales
    tensors = {"scales": scales}
    if found.zero_points is not None:
        tensors["zero_points"] = pack_nibbles(found.zero_points.view(torch.uint8))
    facts = {
        "content": tensor_hash(*tensors.values()),
        "key": key,
        "method": method,
        "relative_error": found.relative_error,
        "scheme": str(scheme),
        "shape": list(shape),
    }
    # One entry: safetensors writes several in random order, and the same shard should be the same bytes.
    data = save(tensors, metadata={_METADATA: json.dumps(facts, sort_keys=True)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        with replacing(path) as partial:
            partial.write_bytes(data)
    except OSError as error:
        raise _write_error(error, path.parent, len(data)) from error


def read_shard(path: Path, *, key: str, scheme: Scheme, shape: tuple[int, int]) -> FoundScales | None:
    """Read a shard.

    Returns:
        None when it is absent, has another key, or is damaged in any way: scales are then to be found again.
    """
    expected = (shape[0], group_count(scheme, shape[1]))
    try:
        with safe_open(path, framework="pt") as file:
            facts = parse_json((file.metadata() or {})[_METADATA].encode("utf-8"))
            names = ("scales",) if scheme.symmetric else ("scales", "zero_points")
            tensors = {name: file.get_tensor(name) for name in names}
        if facts["key"] != key or facts["content"] != tensor_hash(*tensors.values()):
            return None
        zeros = tensors.get("zero_points")
        points = None if zeros is None else unpack_nibbles(zeros, expected[1]).view(torch.int8)
        found = FoundScales(tensors["scales"].to(torch.float32), points, float(facts["relative_error"]))
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None
    sound = tuple(found.scales.shape) == expected and (points is None or tuple(points.shape) == expected)
    return found if sound else None


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
