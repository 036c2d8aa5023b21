"""Publishing: whole or not at all, whatever happens, and never over something that is no bundle."""

from __future__ import annotations

import errno
import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from helium_edge import durable
from helium_edge.bundle import MANIFEST_NAME, BundleWriter, listing
from helium_edge.errors import BundleError, HeliumEdgeError, ResourceError, UsageError
from tests.unit.bundle.bundles import content, fill, make_manifest, names, raise_, weight, write_bundle


def test_a_bundle_is_published_under_its_name_and_nothing_else_is_left(tmp_path: Path, rename_kind: str) -> None:
    out = tmp_path / "b"
    with BundleWriter(out) as bundle:
        assert re.fullmatch(r"b\.partial-[0-9a-f]{8}", bundle.folder.name)
        assert bundle.folder.parent == tmp_path
        fill(bundle.folder)
        assert not out.exists()
        assert bundle.publish(make_manifest()) == out
        assert weight(out) == 1
    assert names(tmp_path) == ["b"]


def test_the_same_input_gives_the_same_bytes_in_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = content(write_bundle(tmp_path / "one"))
    monkeypatch.chdir(tmp_path)
    mask = os.umask(0o077)
    try:
        second = content(write_bundle(Path("other place/zwei")))
    finally:
        os.umask(mask)
    assert first == second
    assert "helium-edge.json" in first


def test_leaving_without_publishing_removes_everything(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "deep" / "er" / "b") as bundle:
        fill(bundle.folder)
    assert names(tmp_path) == []


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), BundleError("x")])
def test_any_exception_removes_everything_and_passes(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        write_bundle(tmp_path / "deep" / "b", meddle=lambda _: raise_(error))
    assert names(tmp_path) == []


def test_a_large_file_that_changes_after_its_checksum_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "EARLY_BYTES", 1)
    changed: list[Path] = []

    def change(folder: Path) -> None:
        if not changed:  # all checksums are there by then, and nothing was verified
            changed.append(next(path for path in sorted(folder.rglob("*.bin"))))
            changed[0].write_bytes(changed[0].read_bytes()[:-1] + b"!")
        original(folder)

    original = durable.sync_folder
    with BundleWriter(tmp_path / "b") as bundle:
        fill(bundle.folder)
        bundle.start_hashing()
        monkeypatch.setattr(durable, "sync_folder", change)
        with pytest.raises(BundleError, match="was changed"):
            bundle.publish(make_manifest())
    assert changed


def test_parents_are_created_and_stay(tmp_path: Path) -> None:
    assert weight(write_bundle(tmp_path / "a" / "c" / "b")) == 1
    assert names(tmp_path / "a" / "c") == ["b"]


def test_parents_that_somebody_uses_stay(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "a" / "c" / "b"):
        (tmp_path / "a" / "note").write_text("mine")
    assert names(tmp_path / "a") == ["note"]


def test_an_existing_target_needs_force(tmp_path: Path) -> None:
    out = write_bundle(tmp_path / "b")
    before = content(tmp_path)
    with pytest.raises(UsageError, match="exists") as caught:
        write_bundle(out)
    assert "--force" in caught.value.hint
    assert caught.value.exit_code == 2
    assert content(tmp_path) == before


def test_force_replaces_a_bundle(tmp_path: Path, rename_kind: str) -> None:
    out = write_bundle(tmp_path / "b", weight=1)
    assert weight(write_bundle(out, force=True, weight=2)) == 2
    assert names(tmp_path) == ["b"]


def test_force_replaces_a_damaged_bundle_and_an_empty_folder(tmp_path: Path, rename_kind: str) -> None:
    out = write_bundle(tmp_path / "b")
    (out / "weights.bin").unlink()
    (out / "helium-edge.json").write_text("{")
    (tmp_path / "empty").mkdir()
    assert weight(write_bundle(out, force=True)) == 1
    assert weight(write_bundle(tmp_path / "empty", force=True)) == 1
    assert names(tmp_path) == ["b", "empty"]


def test_force_is_no_error_where_there_is_nothing(tmp_path: Path) -> None:
    assert weight(write_bundle(tmp_path / "b", force=True)) == 1


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "kind", ["folder", "file", "link to bundle", "link to nothing", "linked manifest", "parent"]
)
def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, kind: str, force: bool) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    elif kind in ("file", "parent"):
        out.write_text("x")
        out = out / "below" / "b" if kind == "parent" else out
    elif kind == "linked manifest":
        out.mkdir()
        (out / "helium-edge.json").symlink_to(__file__)
    else:
        out.symlink_to(write_bundle(tmp_path / "b") if kind == "link to bundle" else tmp_path / "nothing")
    before = names(tmp_path), content(tmp_path)
    with pytest.raises(UsageError) as caught:
        write_bundle(out, force=force)
    assert (names(tmp_path), content(tmp_path)) == before
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "name", ["with space", "Überraschung 🎁", "two\nlines", "x" * 230, "-o", "a.partial-00000000"]
)
def test_any_name_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    assert weight(write_bundle(tmp_path / name)) == 1
    assert weight(write_bundle(tmp_path / name, force=True, weight=2)) == 2
    assert names(tmp_path) == [name]


def test_a_name_that_is_too_long_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written"):
        write_bundle(tmp_path / "sub" / ("x" * 250))
    assert names(tmp_path) == []


def test_a_relative_target_stays_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    with BundleWriter(Path("b")) as bundle:
        fill(bundle.folder)
        monkeypatch.chdir(tmp_path / "other")
        bundle.publish(make_manifest())
    assert weight(tmp_path / "b") == 1


@pytest.mark.parametrize("out", [".", "..", "/", "b/.."])
def test_folders_without_a_name_of_their_own_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "note").write_text("mine")
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(UsageError):
        write_bundle(Path(out), force=True)
    assert names(tmp_path) == ["work"]


def test_a_link_above_the_target_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_bundle(tmp_path / "link" / "b")
    assert names(tmp_path / "real") == ["b"]


def test_links_and_odd_names_are_not_published(tmp_path: Path) -> None:
    for make in (
        lambda folder: (folder / "w2.bin").symlink_to(folder / "weights.bin"),
        lambda folder: os.link(folder / "weights.bin", folder / "w2.bin"),
        lambda folder: os.mkfifo(folder / "pipe"),
        lambda folder: (folder / "a name").write_text("x"),
    ):
        with pytest.raises(BundleError):
            write_bundle(tmp_path / "b", meddle=make)
        assert names(tmp_path) == []


def test_what_does_not_verify_is_not_published(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"decode\.onnx"):
        write_bundle(tmp_path / "b", meddle=lambda folder: (folder / "decode.onnx").unlink())
    assert names(tmp_path) == []


def test_a_disk_that_gives_back_other_bytes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file = durable.write_file

    def write_and_spoil(path: Path, data: bytes) -> None:
        write_file(path, data)
        (path.parent / "weights.bin").write_bytes(b"\0" * 8192)

    monkeypatch.setattr(durable, "write_file", write_and_spoil)
    with pytest.raises(BundleError, match=r"weights\.bin was changed"):
        write_bundle(tmp_path / "b")
    assert names(tmp_path) == []


def test_a_target_that_appears_meanwhile_is_left_alone(tmp_path: Path, rename_kind: str) -> None:
    out = tmp_path / "b"
    with pytest.raises(UsageError, match="has appeared"):
        write_bundle(out, meddle=lambda _: out.mkdir())
    assert names(tmp_path) == ["b"]
    assert names(out) == []


def test_a_foreign_folder_that_takes_the_place_meanwhile_is_left_alone(tmp_path: Path, rename_kind: str) -> None:
    out = write_bundle(tmp_path / "b")

    def take_place(_: Path) -> None:
        out.rename(tmp_path / "moved")
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")

    with pytest.raises(UsageError, match="never replaced"):
        write_bundle(out, force=True, meddle=take_place)
    assert names(tmp_path) == ["b", "moved"]
    assert names(out) == ["thesis.tex"]


def test_the_folder_is_only_there_inside_the_block(tmp_path: Path) -> None:
    bundle = BundleWriter(tmp_path / "b")
    with pytest.raises(HeliumEdgeError):
        _ = bundle.folder


@pytest.mark.parametrize("force", [False, True])
def test_everything_is_on_the_disk_before_the_rename_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rename_kind: str, force: bool
) -> None:
    out = tmp_path / "b"
    if force:
        write_bundle(out)
    events: list[object] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.fstat(descriptor).st_ino))
    for name in ("rename_new", "exchange"):
        rename = getattr(durable, name)
        monkeypatch.setattr(durable, name, lambda *paths, r=rename: (events.append("rename"), r(*paths)))
    write_bundle(
        out, force=force, meddle=lambda folder: (folder / "sub").mkdir() or (folder / "sub" / "x").touch()
    )
    renamed = events.index("rename")
    assert set(events[:renamed]) == {path.stat().st_ino for path in (out, *out.rglob("*"))}
    # A folder is synced after the files in it, and the manifest after the files that it lists.
    assert events.index((out / MANIFEST_NAME).stat().st_ino) > events.index((out / "weights.bin").stat().st_ino)
    assert events.index(out.stat().st_ino) > events.index((out / MANIFEST_NAME).stat().st_ino)
    assert events[renamed + 1 :] == [tmp_path.stat().st_ino]


# Space


def test_too_little_space_is_refused_early_with_both_figures(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "b") as bundle:
        bundle.require_space(1)
        with pytest.raises(ResourceError, match=f"{1 << 60} bytes are needed, [0-9]+ are free") as caught:
            bundle.require_space(1 << 60)
    assert caught.value.exit_code == 6
    assert names(tmp_path) == []


def run_out(out: Path, needed: int, error: OSError) -> None:
    with BundleWriter(out) as bundle:
        bundle.require_space(needed)
        raise error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_no_space_while_somebody_writes_into_the_folder(tmp_path: Path, number: int) -> None:
    with pytest.raises(ResourceError, match="no space left for the bundle: 7 bytes are needed"):
        run_out(tmp_path / "new" / "b", 7, OSError(number, os.strerror(number)))
    assert names(tmp_path) == []


@contextmanager
def files_up_to(nbytes: int) -> Iterator[None]:
    """A real limit of the system: a longer write fails with EFBIG."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_real_limit_while_the_weights_are_written(tmp_path: Path) -> None:
    with files_up_to(5000), pytest.raises(ResourceError):
        write_bundle(tmp_path / "b")
    assert names(tmp_path) == []


def test_a_real_limit_that_only_the_manifest_passes(tmp_path: Path) -> None:
    longest = max(
        len(data) for name, data in content(write_bundle(tmp_path / "a")).items() if name != MANIFEST_NAME
    )
    assert (tmp_path / "a" / MANIFEST_NAME).stat().st_size > longest
    with files_up_to(longest), pytest.raises(ResourceError):
        write_bundle(tmp_path / "b")
    assert names(tmp_path) == ["a"]


def test_other_errors_of_the_system_pass_unless_they_are_about_the_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_bundle(tmp_path / "b", meddle=lambda _: (tmp_path / "checkpoint").read_bytes())
    with pytest.raises(UsageError, match="cannot be written"):
        write_bundle(tmp_path / "b", meddle=lambda folder: (folder / "missing" / "x").write_bytes(b""))
    assert names(tmp_path) == []
