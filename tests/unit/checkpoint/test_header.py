from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.checkpoint.header import MAX_HEADER_BYTES, read_header
from helium_edge.errors import CheckpointError
from tests.helpers.checkpoints import make_checkpoint, random_weights, tiny_config
from tests.unit.checkpoint.support import NORM, SECOND, SINGLE, refusal


def open_or_message(folder: Path) -> Checkpoint | str:
    try:
        return open_checkpoint(str(folder))
    except CheckpointError as error:
        return str(error)


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def write_raw(path: Path, header: dict[str, Any] | str, data: bytes) -> None:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_headers_are_read_without_data(single: Path) -> None:
    header, _ = header_of(single / SINGLE)
    tensors = read_header(single / SINGLE)
    del header["__metadata__"]
    assert {name: list(info.shape) for name, info in tensors.items()} == {n: e["shape"] for n, e in header.items()}


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("cut", ["0", "7", "8", "header-1", "header", "half", "-1"])
def test_truncated_files_are_refused(tmp_path: Path, shards: int, cut: str) -> None:
    folder = make_checkpoint(tmp_path, shards=shards)
    path = folder / (SINGLE if shards == 1 else SECOND)
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    length = {"header-1": header - 1, "header": header, "half": len(content) // 2, "-1": len(content) - 1}
    path.write_bytes(content[: length.get(cut) or int(cut)])
    text = refusal(folder)
    assert text.startswith(f"{path.name}: ")
    assert "copy or download it again" in text
    if cut in ("header", "half", "-1"):
        assert "is truncated, tensor " in text
        name = text.split("tensor ")[1].split()[0]
        assert name in random_weights(tiny_config())


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        (b"\0" * 8, "not readable as JSON"),
        (struct.pack("<Q", 4) + b"null", "no JSON object"),
        (struct.pack("<Q", 4) + b"[1] ", "no JSON object"),
        (struct.pack("<Q", 2**63), "its header would be 9223372036854775808 bytes"),
        (struct.pack("<Q", 2**64 - 1), "its header would be 18446744073709551615 bytes"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1), "its header would be"),
        (struct.pack("<Q", MAX_HEADER_BYTES), "its header ends at byte"),
        (struct.pack("<Q", 4) + b"\xff\xfe\xfd\xfc", "not readable as JSON"),
        (struct.pack("<Q", 200_000) + b"[" * 200_000, "not readable as JSON"),
        (struct.pack("<Q", 9000) + b"9" * 9000, "not readable as JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a git-lfs pointer"),
        (b"PK\x03\x04" + b"x" * 100, "is no safetensors file"),
    ],
    ids=[
        "zero",
        "null",
        "list",
        "2^63",
        "2^64",
        "above-limit",
        "at-limit",
        "utf8",
        "deep",
        "number",
        "lfs",
        "zip",
    ],
)
def test_garbage_is_refused(single: Path, prefix: bytes, expected: str) -> None:
    (single / SINGLE).write_bytes(prefix)
    text = refusal(single)
    assert text.startswith(f"{SINGLE}: ")
    assert expected in text


def test_no_memory_is_taken_for_an_announced_header(single: Path) -> None:
    with (single / SINGLE).open("r+b") as file:
        file.write(struct.pack("<Q", 1 << 40))
        file.truncate(1 << 41)  # sparse: the file is as long as its header claims
    assert "its header would be 1099511627776 bytes" in refusal(single)


@pytest.mark.parametrize(
    "entry",
    [
        None, [], {}, "x", {"dtype": "BF16", "shape": [64]},
        {"dtype": 1, "shape": [64], "data_offsets": [0, 128]},
        {"dtype": "BF16", "shape": 64, "data_offsets": [0, 128]},
        {"dtype": "BF16", "shape": [-64], "data_offsets": [0, 128]},
        {"dtype": "BF16", "shape": [True], "data_offsets": [0, 128]},
        {"dtype": "BF16", "shape": [64.0], "data_offsets": [0, 128]},
        {"dtype": "BF16", "shape": [2**64], "data_offsets": [0, 128]},
        {"dtype": "BF16", "shape": [64], "data_offsets": [128]},
        {"dtype": "BF16", "shape": [64], "data_offsets": [128, 0]},
        {"dtype": "BF16", "shape": [64], "data_offsets": [-1, 127]},
        {"dtype": "BF16", "shape": [64], "data_offsets": ["0", "128"]},
    ],
    ids=str,
)  # fmt: skip
def test_malformed_entries_name_their_tensor(single: Path, entry: Any) -> None:
    header, data = header_of(single / SINGLE)
    write_raw(single / SINGLE, header | {NORM: entry}, data)
    assert f"{SINGLE}: tensor {NORM} has a malformed header entry" in refusal(single)


def test_faults_that_the_library_finds(single: Path) -> None:
    header, data = header_of(single / SINGLE)
    begin, end = header[NORM]["data_offsets"]
    faults: dict[str, dict[str, Any]] = {
        "type": {**header, NORM: header[NORM] | {"dtype": "X9"}},
        "size": {**header, NORM: header[NORM] | {"shape": [63]}},
        "overlap": {**header, NORM: header[NORM] | {"data_offsets": [begin - 2, end - 2]}},
        "overflow": {**header, NORM: header[NORM] | {"shape": [2**62, 2**62]}},
        "hole": {name: entry for name, entry in header.items() if name != NORM},
        "metadata": {**header, "__metadata__": {"format": 1}},
    }
    for fault, broken in faults.items():
        write_raw(single / SINGLE, broken, data)
        assert f"{SINGLE}: malformed safetensors file: " in refusal(single), fault
    write_raw(single / SINGLE, header, data + b"\0")
    assert f"{SINGLE}: malformed safetensors file: " in refusal(single)


def test_a_tensor_given_twice_is_refused(single: Path) -> None:
    header, data = header_of(single / SINGLE)
    text = json.dumps(header)
    write_raw(single / SINGLE, text[:-1] + f', "{NORM}": {json.dumps(header[NORM])}}}', data)
    assert f"the key '{NORM}' stands twice" in refusal(single)


@settings(max_examples=150, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 2500), value=st.integers(0, 255))
def test_a_flipped_byte_of_the_header_is_refused_or_harmless(
    tiny_checkpoint: Path, tmp_path: Path, position: int, value: int
) -> None:
    folder = tmp_path / "flipped"
    if not folder.exists():
        make_checkpoint(folder, tokenizer=False)
    content = bytearray((tiny_checkpoint / SINGLE).read_bytes())
    content[position] = value
    (folder / SINGLE).write_bytes(content)
    opened = open_or_message(folder)
    if isinstance(opened, str):
        assert opened.startswith(f"{SINGLE}: ")
        return
    assert set(opened.tensors) == set(random_weights(tiny_config()))
    for name in opened.tensors:
        opened.read(name)
