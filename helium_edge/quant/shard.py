"""One shard of the store: a weight in a safetensors file, written whole or not at all, checked when read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from helium_edge.errors import HeliumEdgeError, ResourceError, UsageError
from helium_edge.quant.affine import QuantizedWeight
from helium_edge.quant.packing import pack_codes, pack_nibbles, unpack_codes, unpack_nibbles
from helium_edge.recipe import Scheme

_METADATA = "helium_edge"
_PARTIAL = ".partial-"
_STALE_SECONDS = 3600.0
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)


@dataclass(frozen=True, eq=False)
class Shard:
    """A quantized weight and how far it is from the original (`affine.relative_error`)."""

    weight: QuantizedWeight
    relative_error: float


def tensor_hash(*tensors: torch.Tensor) -> str:
    """sha256 over the bytes of tensors, in order, as 64 hex digits."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_shard(path: Path, shard: Shard, *, key: str, method: str) -> None:
    """Write a shard beside its place, flush it to disk and rename it into place.

    Args:
        path: The file; its folder is created.
        shard: What to write.
        key: Identity of input, scheme, method and code; `read_shard` asks for it.
        method: Name of the method, recorded.

    Raises:
        ResourceError: The disk is full or fails; nothing is left behind.
        UsageError: The folder cannot be written.
    """
    tensors = _pack(shard.weight)
    facts = {
        "content": tensor_hash(*tensors.values()),
        "key": key,
        "method": method,
        "relative_error": shard.relative_error,
        "scheme": str(shard.weight.scheme),
        "shape": list(shard.weight.shape),
    }
    # One entry: safetensors writes several in random order, and the same shard should be the same bytes.
    data = save(tensors, metadata={_METADATA: json.dumps(facts, sort_keys=True)})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        _publish(path, data)
    except OSError as error:
        raise _write_error(error, path.parent, len(data)) from error


def read_shard(path: Path, *, key: str, scheme: Scheme, shape: tuple[int, int]) -> Shard | None:
    """Read a shard.

    Returns:
        None when it is absent, has another key, or is damaged in any way: it is then to be computed again.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})[_METADATA])
            tensors = {name: file.get_tensor(name) for name in _tensor_names(scheme)}
        if facts["key"] != key or facts["content"] != tensor_hash(*tensors.values()):
            return None
        return Shard(_unpack(tensors, scheme, shape), float(facts["relative_error"]))
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError):
        return None


def _tensor_names(scheme: Scheme) -> tuple[str, ...]:
    return ("codes", "scales") if scheme.symmetric else ("codes", "scales", "zero_points")


def _pack(weight: QuantizedWeight) -> dict[str, torch.Tensor]:
    tensors = {"codes": pack_codes(weight.codes, weight.scheme), "scales": weight.scales}
    if weight.zero_points is not None:
        tensors["zero_points"] = pack_nibbles(weight.zero_points.view(torch.uint8))
    return tensors


def _unpack(tensors: dict[str, torch.Tensor], scheme: Scheme, shape: tuple[int, int]) -> QuantizedWeight:
    scales = tensors["scales"]
    zeros = tensors.get("zero_points")
    weight = QuantizedWeight(
        scheme,
        unpack_codes(tensors["codes"], scheme, shape[1]),
        scales,
        None if zeros is None else unpack_nibbles(zeros, scales.shape[1]).view(torch.int8),
    )
    if weight.shape != shape:
        raise ValueError(f"expected {shape}, found {weight.shape}")
    return weight


def _publish(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(prefix=path.name + _PARTIAL, dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _remove_stale(folder: Path) -> None:
    """Remove what killed runs left; a shard takes seconds to write, so an hour spares runs at work."""
    for path in folder.glob(f"*{_PARTIAL}*"):
        if path.stat().st_mtime < time.time() - _STALE_SECONDS:
            path.unlink(missing_ok=True)


def _write_error(error: OSError, folder: Path, nbytes: int) -> HeliumEdgeError:
    if error.errno in _NO_SPACE:
        return ResourceError(
            f"{folder}: no space for a quantized weight of {nbytes} bytes: {error.strerror}",
            hint="free space, or choose another folder; the weights already written are kept and used",
        )
    kind = ResourceError if error.errno == errno.EIO else UsageError
    return kind(f"{folder}: a quantized weight cannot be written there: {error.strerror or error}")
