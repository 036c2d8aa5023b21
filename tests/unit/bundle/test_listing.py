"""Checksums of a bundle's files, the large ones early."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest

from helium_edge import durable
from helium_edge.bundle import listing
from helium_edge.bundle.listing import FileListing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(listing, "EARLY_BYTES", 1000)
    (tmp_path / "large").write_bytes(b"a" * 1000)
    (tmp_path / "small").write_bytes(b"b" * 999)
    return tmp_path


def digests(found: FileListing) -> dict[str, str]:
    return {entry.path: entry.sha256 for entry in found.entries()}


def expected(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_a_large_file_is_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def spy(path: Path, *, sync: bool = False) -> tuple[int, str]:
        hashed.append(path.name)
        assert sync
        return original(path, sync=sync)

    original = durable.hash_file
    monkeypatch.setattr(durable, "hash_file", spy)
    found = FileListing(folder)
    found.start()
    (folder / "later").write_bytes(b"c" * 2000)
    assert digests(found) == expected(folder)
    assert sorted(hashed) == ["large", "later", "small"]


def test_a_file_that_changed_is_hashed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    early = threading.Event()

    def hash_and_tell(path: Path, *, sync: bool = False) -> tuple[int, str]:
        found = original(path, sync=sync)
        early.set()
        return found

    original = durable.hash_file
    monkeypatch.setattr(durable, "hash_file", hash_and_tell)
    found = FileListing(folder)
    found.start()
    assert early.wait(10)
    (folder / "large").write_bytes(b"d" * 1001)
    assert digests(found) == expected(folder)


def test_an_error_of_the_thread_is_the_callers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, *, sync: bool = False) -> tuple[int, str]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(durable, "hash_file", fail)
    found = FileListing(folder)
    found.start()
    with pytest.raises(OSError, match="Input/output error"):
        found.entries()


def test_known_is_what_was_hashed_early_and_is_still_the_same(folder: Path) -> None:
    (folder / "other").write_bytes(b"e" * 1000)
    found = FileListing(folder)
    found.start()
    (folder / "later").write_bytes(b"c" * 2000)
    found.entries()
    assert found.unchanged() == {"large", "other"}
    (folder / "large").write_bytes(b"d" * 1001)
    assert found.unchanged() == {"other"}
