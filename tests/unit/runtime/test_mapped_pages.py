"""Clean pages of a mapped file leave memory; written ones, shared ones and other files stay."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import pytest

from helium_edge.runtime.mapped_pages import release_clean_pages

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

SIZE = 1 << 20


def mapped(path: Path, access: int = mmap.ACCESS_COPY) -> mmap.mmap:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(range(256)) * (SIZE // 256))
    with path.open("r+b") as file:
        view = mmap.mmap(file.fileno(), SIZE, access=access)
    assert sum(view[::4096]) == 0  # touches every page
    return view


def test_clean_pages_are_dropped_once_and_read_again(tmp_path: Path) -> None:
    view = mapped(tmp_path / "bundle" / "weights.bin")
    assert release_clean_pages(tmp_path / "bundle") == SIZE
    assert release_clean_pages(tmp_path / "bundle") == 0
    assert view[:256] == bytes(range(256))


def test_a_written_page_keeps_its_mapping(tmp_path: Path) -> None:
    view = mapped(tmp_path / "bundle" / "weights.bin")
    view[5] = 77
    assert release_clean_pages(tmp_path / "bundle") == 0
    assert view[5] == 77


def test_other_files_and_shared_mappings_are_left_alone(tmp_path: Path) -> None:
    views = [mapped(tmp_path / "bundle-2" / "weights.bin"), mapped(tmp_path / "bundle" / "s", mmap.ACCESS_WRITE)]
    assert release_clean_pages(tmp_path / "bundle") == 0
    assert len(views) == 2


def test_files_of_the_hubs_cache_are_links_to_others(tmp_path: Path) -> None:
    view = mapped(tmp_path / "blobs" / "ab12")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "weights.bin").symlink_to("../blobs/ab12")
    assert release_clean_pages(tmp_path / "bundle") == SIZE
    assert view[:256] == bytes(range(256))
