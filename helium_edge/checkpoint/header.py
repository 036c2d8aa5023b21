"""The header of one safetensors file, read with every size checked before it is used.

Layout: 8 bytes little-endian header length, that many bytes of JSON, then the data that the JSON's
`data_offsets` point into. We parse it to name the tensor that is wrong and to see duplicates; holes, overlaps
and sizes that do not match shapes are left to the safetensors library, which opens every file once as well.

Source: https://github.com/huggingface/safetensors, section "Format".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from helium_edge.documents import DocumentError, first_line, parse_json, shorten
from helium_edge.errors import CheckpointError, too_many_files

MAX_HEADER_BYTES = 2 << 20
"""A header has about 120 bytes a tensor; this is room for seventeen thousand of them. Parsed, malicious JSON takes
about thirty times its size in memory, which is what the limit is for."""

DAMAGED = "the file is damaged or incomplete: copy or download it again"

_LENGTH_BYTES = 8
_LFS_POINTER = b"version "  # how a git-lfs pointer begins: a clone without `git lfs pull`
_LIMIT = 1 << 63


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor.

    Attributes:
        name: Its name in the checkpoint.
        dtype: As safetensors spells it: BF16, F16, F32, ...
        shape: Its sizes, outermost first.
        file: Name of the file inside the checkpoint folder.
        nbytes: Bytes of data.
        offset: Of the first of them, in the file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    nbytes: int
    offset: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """Read the header of a safetensors file; no tensor data is touched.

    Raises:
        CheckpointError: The file is truncated or malformed; the message names the file and, where the fault
            lies in one, the tensor.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            text = _header_text(file.read(_LENGTH_BYTES), size, path.name)
            entries = _parse(file.read(text), path.name)
    except OSError as error:
        raise too_many_files(error) or CheckpointError(f"{path.name}: cannot be read: {error.strerror}") from error
    data_size = size - _LENGTH_BYTES - text
    tensors = {name: _entry(name, entry, path.name, size, data_size) for name, entry in entries.items()}
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = first_line(error)
        raise too_many_files(error) or CheckpointError(
            f"{path.name}: malformed safetensors file: {reason}", hint=DAMAGED
        ) from error
    return tensors


def _header_text(prefix: bytes, size: int, file: str) -> int:
    """Return the checked length of the header's JSON."""
    if prefix == _LFS_POINTER:
        raise CheckpointError(f"{file}: is a git-lfs pointer, not the weights", hint="run `git lfs pull`")
    if len(prefix) < _LENGTH_BYTES:
        raise CheckpointError(f"{file}: {size} bytes is no safetensors file", hint=DAMAGED)
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES:
        raise CheckpointError(
            f"{file}: is no safetensors file, its header would be {length} bytes (limit {MAX_HEADER_BYTES})",
            hint=DAMAGED,
        )
    if _LENGTH_BYTES + length > size:
        raise CheckpointError(
            f"{file}: is truncated, its header ends at byte {_LENGTH_BYTES + length} of {size}", hint=DAMAGED
        )
    return length


def _parse(text: bytes, file: str) -> dict[str, Any]:
    try:
        entries = parse_json(text)
    except DocumentError as error:
        raise CheckpointError(f"{file}: its header is {error}", hint=error.hint or DAMAGED) from error
    if not isinstance(entries, dict):
        raise CheckpointError(f"{file}: its header is no JSON object", hint=DAMAGED)
    entries.pop("__metadata__", None)
    return entries


def _entry(name: str, entry: Any, file: str, size: int, data_size: int) -> TensorInfo:
    malformed = CheckpointError(f"{file}: tensor {shorten(name)} has a malformed header entry", hint=DAMAGED)
    if not isinstance(entry, dict):
        raise malformed
    dtype, shape, offsets = entry.get("dtype"), _sizes(entry.get("shape")), _sizes(entry.get("data_offsets"))
    if not isinstance(dtype, str) or shape is None or offsets is None or len(offsets) != 2:
        raise malformed
    begin, end = offsets
    if begin > end:
        raise malformed
    if end > data_size:
        raise CheckpointError(
            f"{file}: is truncated, tensor {shorten(name)} ends at byte {end} of its data, "
            f"the file holds {data_size} bytes of data",
            hint=DAMAGED,
        )
    return TensorInfo(name, dtype, shape, file, end - begin, size - data_size + begin)


def _sizes(values: Any) -> tuple[int, ...] | None:
    if isinstance(values, list) and all(type(value) is int and 0 <= value < _LIMIT for value in values):
        return tuple(values)
    return None
