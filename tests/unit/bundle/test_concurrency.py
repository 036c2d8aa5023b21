"""Several exporters to one target, and readers while it is replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from helium_edge import durable
from helium_edge.bundle import BundleWriter, Manifest, open_bundle, verify
from helium_edge.errors import BundleError, UsageError
from tests.unit.bundle.bundles import fill, make_manifest, names, weight, write_bundle


def test_a_second_exporter_to_one_target_is_refused_and_disturbs_nothing(tmp_path: Path) -> None:
    out = tmp_path / "b"
    with BundleWriter(out) as first:
        fill(first.folder)
        with pytest.raises(UsageError, match=f"another export to it is running .process {os.getpid()}."):
            write_bundle(out)
        assert weight(write_bundle(tmp_path / "b2")) == 1
        first.publish(make_manifest())
    assert weight(write_bundle(out, force=True, weight=2)) == 2
    assert names(tmp_path) == ["b", "b2"]


def test_of_many_exporters_at_once_one_succeeds(tmp_path: Path) -> None:
    barrier = threading.Barrier(6)
    outcomes: list[str] = []

    def export() -> None:
        barrier.wait()
        try:
            write_bundle(tmp_path / "b")
        except UsageError as error:
            outcomes.append(error.message)
        else:
            outcomes.append("published")

    threads = [threading.Thread(target=export) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("published") == 1
    assert len(outcomes) == 6
    assert weight(tmp_path / "b") == 1
    assert names(tmp_path) == ["b"]


def test_leftovers_of_other_targets_and_other_things_stay(tmp_path: Path) -> None:
    for name in ("c.partial-00000001", "b.partial-0000000", "b.partial-zzzzzzzz", "bb.partial-00000001"):
        (tmp_path / name).mkdir()
    (tmp_path / "b.partial-00000002").write_text("a file")
    (tmp_path / "b.partial-00000003").symlink_to(tmp_path)
    before = names(tmp_path)
    write_bundle(tmp_path / "b")
    assert names(tmp_path) == sorted([*before, "b"])


def test_dead_leftovers_go_and_live_ones_stay_where_folders_cannot_be_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "fcntl", None)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    partial = tmp_path / f"b.partial-{process.pid:06x}00"
    partial.mkdir()
    with pytest.raises(UsageError, match=f"process {process.pid}"):
        write_bundle(tmp_path / "b")
    assert partial.exists()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert weight(write_bundle(tmp_path / "b")) == 1
    assert names(tmp_path) == ["b"]


def test_a_locked_parent_is_not_waited_for_forever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "_LOCK_SECONDS", 0.1)
    descriptor = durable.lock_folder(tmp_path)
    assert descriptor is not None
    try:
        with pytest.raises(UsageError, match="locked by another program"):
            write_bundle(tmp_path / "b")
    finally:
        os.close(descriptor)
    assert names(tmp_path) == []


def test_readers_see_a_whole_bundle_at_any_time(tmp_path: Path) -> None:
    out = write_bundle(tmp_path / "b", name="v0")
    versions: list[int] = []
    failures: list[BaseException] = []

    def export() -> None:
        try:
            for version in range(1, 500):
                write_bundle(out, force=True, weight=version % 7, name=f"v{version}")
                if len(set(versions)) >= 5:
                    break
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=export)
    thread.start()
    while thread.is_alive():
        assert (out / "helium-edge.json").is_file()
        versions.append(int(open_bundle(out).manifest.name.removeprefix("v")))
    assert failures == []
    assert versions == sorted(versions)
    assert len(set(versions)) >= 5


@pytest.mark.parametrize("unverified", [False, True])
def test_a_bundle_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unverified: bool
) -> None:
    out = write_bundle(tmp_path / "b", name="old")
    read = verify._manifest_of
    reads = []

    def read_and_replace(folder: Path, *, sealed: bool) -> Manifest:
        manifest = read(folder, sealed=sealed)
        reads.append(manifest.name)
        if len(reads) == 1:
            write_bundle(out, name="new", force=True)
            reads[1:] = []  # what publishing reads back
        return manifest

    monkeypatch.setattr(verify, "_manifest_of", read_and_replace)
    assert open_bundle(out, unverified=unverified).manifest.name == "new"
    assert reads == ["old", "new"]


def test_a_bundle_that_is_replaced_at_every_look_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_bundle(tmp_path / "b")
    looks = iter(range(1000))
    monkeypatch.setattr(verify, "_identity", lambda _: (next(looks),))
    with pytest.raises(BundleError, match="is being replaced all the time"):
        open_bundle(out)
