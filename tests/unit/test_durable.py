"""A file or folder that takes its name whole, or not at all; bundles, stores and checkpoints are written so."""

from __future__ import annotations

from pathlib import Path

import pytest

from helium_edge.durable import PartialFolder, replace_file, replacing
from helium_edge.errors import HeliumEdgeError, UsageError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_reader_sees_the_old_file_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with replacing(path) as beside:
        beside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_block_that_fails_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "f"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as beside:
            beside.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["f"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "f"):
        pass
    assert names(tmp_path) == []


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert path.read_text() == "first"  # the inner block ended before


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "to").write_text("old")
    (tmp_path / "link").symlink_to("to")
    replace_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "to").read_text() == "new"


def partial(target: Path) -> PartialFolder:
    return PartialFolder(target, shown="it", activity="test")


def test_a_folder_is_not_there_until_it_is_published(tmp_path: Path) -> None:
    target = tmp_path / "made" / "d"
    with partial(target) as folder:
        (folder.path / "f").write_text("content")
        assert not target.exists()
        folder.publish()
    assert names(target) == ["f"]
    assert names(target.parent) == ["d"]
    with pytest.raises(HeliumEdgeError, match="inside its with block"):
        _ = folder.path


def test_what_is_not_published_goes_with_the_parents_made_for_it(tmp_path: Path) -> None:
    with partial(tmp_path / "made" / "for it" / "d") as folder:
        (folder.path / "f").write_text("content")
    assert names(tmp_path) == []


def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with partial(tmp_path / "d") as first:
        with pytest.raises(UsageError, match="it: another test to it is running"), partial(tmp_path / "d"):
            pass
        first.publish()
    assert names(tmp_path) == ["d"]


def test_a_name_that_was_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    with partial(tmp_path / "d") as folder:
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "theirs").write_text("")
        with pytest.raises(UsageError, match="it: has appeared during the test"):
            folder.publish()
    assert names(tmp_path / "d") == ["theirs"]
    assert names(tmp_path) == ["d"]


def test_a_folder_is_replaced_by_one_rename(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "old").write_text("")
    with partial(tmp_path / "d") as folder:
        (folder.path / "new").write_text("")
        folder.publish(replace=True)
    assert names(tmp_path / "d") == ["new"]
    assert names(tmp_path) == ["d"]


def test_a_folder_that_a_killed_writer_was_replacing_is_put_back(tmp_path: Path) -> None:
    (tmp_path / "d.replaced-00000001").mkdir()
    (tmp_path / "d.partial-00000001").mkdir()
    with partial(tmp_path / "d") as folder:
        assert folder.restored
        assert (tmp_path / "d").is_dir()
    assert names(tmp_path) == ["d"]
