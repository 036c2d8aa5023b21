from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from helium_edge.cli.main import run
from huggingface_hub import constants
from huggingface_hub.errors import RepositoryNotFoundError

from helium_edge.bundle import check_pin, manifest_hash, open_bundle, peek_bundle, resolve_bundle, verify_bundle
from helium_edge.bundle.writer import check_output
from helium_edge.errors import BundleError, HeliumEdgeError, UsageError
from helium_edge.hub import is_hub_link, snapshot_identity
from helium_edge.push import target_folder
from tests.helpers.hub_cache import to_hub_cache
from tests.unit.bundle.bundles import write_bundle


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bundle that the Hub client has downloaded as `org/tiny`; the current folder is another."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return to_hub_cache(write_bundle(tmp_path / "b"), tmp_path / "hub")


def refusal(source: str, kind: type[HeliumEdgeError] = BundleError, **arguments: Any) -> str:
    with pytest.raises(kind) as caught:
        resolve_bundle(source, **arguments)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return str(caught.value)


@pytest.mark.parametrize("source", ["org/tiny", "org/tiny@main", f"org/tiny@{'a1' * 20}"])
def test_a_cached_bundle_is_found_offline(snapshot: Path, source: str) -> None:
    folder = resolve_bundle(source)
    assert folder.resolve() == snapshot.resolve()
    assert open_bundle(folder).manifest.name == "tiny-int4"
    assert {check.subject for check in verify_bundle(folder)} == {path.name for path in snapshot.iterdir()}
    assert resolve_bundle("org/tiny", revision="main") == folder
    assert peek_bundle(source) == open_bundle(folder)


def test_a_local_folder_wins(snapshot: Path) -> None:
    local = write_bundle(Path("org") / "tiny")
    assert resolve_bundle("org/tiny").resolve() == local.resolve()
    assert peek_bundle("org/tiny") is None
    assert "--revision v1 applies to Hub ids only" in refusal("org/tiny", UsageError, revision="v1")


def test_what_is_no_hub_id_is_left_to_whoever_opens_it(snapshot: Path) -> None:
    for source in ("nowhere", "./org/tiny", "a/b/c", "/no/such", "~nobody-here/x"):
        assert resolve_bundle(source) == Path(source)
        with pytest.raises(BundleError, match="no such folder"):
            open_bundle(resolve_bundle(source))
    os.mkdir("out")
    assert "out/tiny: no such folder; 'out' is a folder here" in refusal("out/tiny")


def test_offline_and_not_whole(snapshot: Path) -> None:
    text = "not complete in the local Hub cache, and HF_HUB_OFFLINE forbids to download it"
    for source in ("org/other", "org/tiny@v9"):
        assert text in refusal(source)
        assert peek_bundle(source) is None
    (snapshot / "weights.bin").unlink()
    assert text in refusal("org/tiny")


def test_the_manifest_comes_first_and_then_what_it_lists(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str | None, Any]] = []

    def one(repository: str, name: str, *, revision: str | None) -> str:
        asked.append((repository, revision, name))
        return str(snapshot / name)

    def several(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((repository, revision, sorted(allow_patterns)))
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", one)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", several)
    assert resolve_bundle("org/tiny", revision="v1") == snapshot
    files = sorted(path.name for path in snapshot.iterdir() if path.name != "helium-edge.json")
    assert asked == [("org/tiny", "v1", "helium-edge.json"), ("org/tiny", snapshot.name, files)]


def test_errors_of_the_hub(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    error: Exception = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    assert "no such repository on the Hub" in refusal("org/none")
    error = OSError("proxy")
    assert "org/none: the download from the Hub failed: proxy" in refusal("org/none")
    error = huggingface_hub.errors.EntryNotFoundError.__new__(huggingface_hub.errors.EntryNotFoundError)
    assert "org/none: the repository holds no helium-edge.json" in refusal("org/none")
    assert peek_bundle("org/none") is None


def test_links_are_the_hubs_own_in_a_folder_below_a_snapshot_too(snapshot: Path, tmp_path: Path) -> None:
    assert all(is_hub_link(path) for path in snapshot.iterdir())
    below = snapshot / "int4"
    below.mkdir()
    for path in [path for path in snapshot.iterdir() if path.is_symlink()]:
        (below / path.name).symlink_to(f"../{os.readlink(path)}")
        path.unlink()
    assert open_bundle(below).manifest.name == "tiny-int4"
    assert (snapshot_identity(below), snapshot_identity(snapshot)) == (None, ("org/tiny", snapshot.name))
    elsewhere = tmp_path / "copy"
    shutil.copytree(below, elsewhere, symlinks=False)
    (elsewhere / "weights.bin").unlink()
    (elsewhere / "weights.bin").symlink_to((below / "weights.bin").resolve())
    with pytest.raises(BundleError, match=r"weights\.bin is a symbolic link"):
        open_bundle(elsewhere)


def test_blobs_of_another_repository_are_none_of_its_own(snapshot: Path, tmp_path: Path) -> None:
    other = to_hub_cache(write_bundle(tmp_path / "b"), tmp_path / "hub", "org/other")
    (snapshot / "weights.bin").unlink()
    (snapshot / "weights.bin").symlink_to((other / "weights.bin").resolve())
    with pytest.raises(BundleError, match=r"weights\.bin is a symbolic link"):
        open_bundle(snapshot)


def test_a_phone_gets_the_name_of_the_repository(snapshot: Path) -> None:
    assert target_folder(open_bundle(snapshot)).endswith("/bundles/tiny")


def test_a_pin(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    sha256 = manifest_hash(open_bundle(folder))
    check_pin(folder, sha256)
    check_pin(folder, sha256.upper())
    with pytest.raises(BundleError, match=f"has the sha256 {sha256}, expected {'0' * 64}"):
        check_pin(folder, "0" * 64)
    with pytest.raises(UsageError, match="'abc' is no sha256"):
        check_pin(folder, "abc")


def test_a_clone_is_never_replaced(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "b")
    assert check_output(folder, force=True) == folder
    (folder / ".git").mkdir()
    with pytest.raises(UsageError, match=r"holds \.git, and replacing the folder would lose it"):
        check_output(folder, force=True)


def test_to_look_at_a_bundle_takes_its_manifest_alone(snapshot: Path) -> None:
    (snapshot / "weights.bin").unlink()
    found = peek_bundle("org/tiny")
    assert found is not None
    assert found.manifest.name == "tiny-int4"
    assert run(["inspect", "org/tiny"]) == 0
