from __future__ import annotations

import errno
import importlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from helium_edge.checkpoint import TOKENIZER_FILES, open_checkpoint
from helium_edge.checkpoint.source import Source, resolve_source
from helium_edge.errors import CheckpointError, HeliumEdgeError, ResourceError, UsageError
from tests.helpers.checkpoints import make_checkpoint

# The HTTP library that this version of the client is built on: requests before 1.0, httpx since.
http: Any = importlib.import_module(errors.HfHubHTTPError.__mro__[1].__module__.partition(".")[0])

COMMIT = "645c947584930000000000000000000000000000"


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds `org/tiny`, laid out as the Hub client does: all files are links to blobs."""
    cache = tmp_path / "hub"
    repository = cache / "models--org--tiny"
    snapshot, blobs = repository / "snapshots" / COMMIT, repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(make_checkpoint(tmp_path / "made", shards=2).iterdir())):
        shutil.copy(path, blobs / f"blob{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/blob{number}")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    return cache


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise AssertionError(f"a download was tried: {args}")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)


def refusal(source: str, kind: type[HeliumEdgeError] = CheckpointError, **arguments: Any) -> str:
    with pytest.raises(kind) as caught:
        resolve_source(source, **arguments)
    assert "\n" not in str(caught.value)
    assert caught.value.hint
    return str(caught.value)


def test_the_checkpoint_of_the_package(no_download: None) -> None:
    checkpoint = open_checkpoint("helium-tiny")
    assert (checkpoint.source, checkpoint.revision) == ("helium-tiny", None)
    assert checkpoint.config.num_parameters == 6_229_248
    assert [path.name for path in checkpoint.tokenizer_files()] == [
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    ]  # fmt: skip


def test_the_name_of_the_package_is_never_a_folder(in_empty_folder: Path, no_download: None) -> None:
    make_checkpoint(in_empty_folder / "helium-tiny")
    assert open_checkpoint("helium-tiny").config.num_hidden_layers == 6
    assert open_checkpoint("./helium-tiny").config.num_hidden_layers == 2


@pytest.mark.parametrize("source", ["model", "./model", "org/../model", "model/", "{}/model"])
def test_a_folder_is_called_by_its_name(in_empty_folder: Path, no_download: None, source: str) -> None:
    (in_empty_folder / "model").mkdir()
    (in_empty_folder / "org").mkdir()
    found = resolve_source(source.format(in_empty_folder))
    assert found.folder.resolve() == in_empty_folder / "model"
    assert (found.label, found.revision) == ("model", None)


def test_the_current_and_the_home_folder(in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(in_empty_folder.parent))
    assert resolve_source(".").label == in_empty_folder.name
    assert resolve_source(f"~/{in_empty_folder.name}").folder == in_empty_folder


def test_a_folder_wins_over_a_hub_id(in_empty_folder: Path, no_download: None) -> None:
    (in_empty_folder / "org" / "tiny").mkdir(parents=True)
    assert resolve_source("org/tiny").label == "tiny"


@pytest.mark.parametrize(
    "source",
    [
        "/no/such", "./model", "../x/y", "~/no-such", "~nobody-here/x", "a/b/c", "model", "", "a\0b", "x" * 9999,
        "a b/c", "-org/x", "org/", "org//x", "C:\\models\\x", "@v1", "org@v1", "org/\n", "örg/x",
    ],
)  # fmt: skip
def test_what_is_no_folder_and_no_hub_id(in_empty_folder: Path, no_download: None, source: str) -> None:
    text = refusal(source)
    assert "no such folder" in text
    assert "a Hub id such as org/name" in text
    assert len(text) < 500


def test_a_misspelt_name_is_guessed(in_empty_folder: Path) -> None:
    assert "did you mean 'helium-tiny'?" in refusal("helium-tinny")


def test_a_path_below_an_existing_folder_is_no_hub_id(in_empty_folder: Path, no_download: None) -> None:
    (in_empty_folder / "models").mkdir()
    text = refusal("models/helium")
    assert "models/helium: no such folder; 'models' is a folder here" in text
    assert "hf download models/helium" in text


def test_a_file_is_no_checkpoint(in_empty_folder: Path) -> None:
    (in_empty_folder / "model.safetensors").touch()
    text = refusal("model.safetensors")
    assert "model.safetensors: is a file" in text
    assert "the folder that holds it" in text


@pytest.mark.parametrize("source", ["helium-tiny", "."])
def test_a_local_folder_has_no_revision(in_empty_folder: Path, source: str) -> None:
    assert "--revision v1 applies to Hub ids only" in refusal(source, UsageError, revision="v1")


@pytest.mark.parametrize(
    ("source", "revision", "expected"),
    [
        ("org/tiny", None, None),
        ("org/tiny", "v1", "v1"),
        ("org/tiny@v1", None, "v1"),
        ("org/tiny@v1", "v1", "v1"),
        ("org/tiny@refs/pr/1", None, "refs/pr/1"),
        ("org/tiny@", None, None),
    ],
)
def test_only_what_is_needed_is_downloaded(
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    revision: str | None,
    expected: str | None,
) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []

    def download(repository: str, **arguments: Any) -> str:
        calls.append((repository, arguments))
        return f"/cache/{COMMIT}"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert resolve_source(source, revision=revision) == Source(Path(f"/cache/{COMMIT}"), "org/tiny", COMMIT)
    [(repository, arguments)] = calls
    assert (repository, arguments["revision"]) == ("org/tiny", expected)
    wanted = set(
        huggingface_hub.utils.filter_repo_objects(
            [
                *TOKENIZER_FILES, "config.json", "generation_config.json", "model.safetensors",
                "model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                "consolidated.safetensors", "modeling_x.py", "README.md", "original/config.json", "x.gguf",
                "training_args.bin", "onnx/model.onnx", "requirements.txt",
            ],
            allow_patterns=arguments["allow_patterns"],
        )
    )  # fmt: skip
    assert wanted == {
        *TOKENIZER_FILES, "config.json", "generation_config.json", "model.safetensors",
        "model-00001-of-00002.safetensors", "model.safetensors.index.json", "README.md",
    }  # fmt: skip


def test_two_revisions_must_agree(in_empty_folder: Path, no_download: None) -> None:
    assert "two revisions" in refusal("org/tiny@v1", UsageError, revision="v2")


def test_a_cached_repository_is_opened_offline(in_empty_folder: Path, hub_cache: Path) -> None:
    checkpoint = open_checkpoint("org/tiny")
    assert (checkpoint.source, checkpoint.revision) == ("org/tiny", COMMIT)
    assert checkpoint.read("model.norm.weight").shape == (64,)
    assert len(checkpoint.hashes()) == 7


def test_the_folder_that_the_hub_client_prints_is_the_same_checkpoint(hub_cache: Path, no_download: None) -> None:
    folder = hub_cache / "models--org--tiny" / "snapshots" / COMMIT
    checkpoint = open_checkpoint(str(folder))
    assert (checkpoint.source, checkpoint.revision) == ("org/tiny", COMMIT)
    assert checkpoint.read("model.norm.weight").shape == (64,)


@pytest.mark.parametrize(
    "target", ["{root}/secret", "../../secret", "../../blobs/../secret", "../../blobs/x/../../../secret"]
)
def test_a_snapshot_may_only_link_to_its_own_blobs(tmp_path: Path, hub_cache: Path, target: str) -> None:
    repository = hub_cache / "models--org--tiny"
    (repository / "blobs" / "x").mkdir()
    for secret in (tmp_path / "secret", repository / "secret", hub_cache / "secret"):
        secret.write_text("{}")
    link = repository / "snapshots" / COMMIT / "tokenizer.json"
    link.unlink()
    link.symlink_to(target.format(root=tmp_path))
    assert link.read_text() == "{}"
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: is a link, which is not followed"):
        open_checkpoint(str(link.parent)).tokenizer_files()


def test_a_lost_blob_is_named(hub_cache: Path) -> None:
    snapshot = hub_cache / "models--org--tiny" / "snapshots" / COMMIT
    os.unlink(os.path.realpath(snapshot / "config.json"))
    with pytest.raises(CheckpointError, match=r"config\.json: its content is missing from the Hub cache"):
        open_checkpoint(str(snapshot))


def test_offline_and_not_cached(in_empty_folder: Path, hub_cache: Path) -> None:
    text = refusal("org/other")
    assert "org/other: not complete in the local Hub cache, and HF_HUB_OFFLINE forbids" in text
    assert "unset HF_HUB_OFFLINE, or `hf download org/other`" in text


def _status(code: int) -> dict[str, Any]:
    request = http.Request("GET", "https://hub.example/x")
    if http.__name__ == "requests":
        response = http.Response()
        response.status_code, response.request = code, request.prepare()
        return {"response": response}
    return {"response": http.Response(code, request=request)}


@pytest.mark.parametrize(
    ("error", "kind", "expected"),
    [
        (lambda: errors.GatedRepoError("a\nb", **_status(403)), CheckpointError, ["gated", "hf auth login"]),
        (
            lambda: errors.RepositoryNotFoundError("a\nb", **_status(404)),
            CheckpointError,
            ["no such repository on the Hub, or a private one", "check the spelling"],
        ),
        (
            lambda: errors.RevisionNotFoundError("a\nb", **_status(404)),
            CheckpointError,
            ["no revision 'v9'", "a branch, a tag or a commit"],
        ),
        (
            lambda: errors.LocalEntryNotFoundError("a\nb"),
            CheckpointError,
            ["the Hub cannot be reached", "hf download org/tiny"],
        ),
        (lambda: errors.HfHubHTTPError("500 broken\nb", **_status(500)), CheckpointError, ["failed: 500 broken"]),
        (
            lambda: getattr(http, "exceptions", http).ProxyError("no proxy"),
            CheckpointError,
            ["failed: no proxy", "try again"],
        ),
        (lambda: errors.HFValidationError("bad id"), CheckpointError, ["failed: bad id"]),
        (RuntimeError, CheckpointError, ["failed: RuntimeError"]),
        (lambda: OSError(errno.ENOSPC, "full"), ResourceError, ["no space left", "HF_HOME"]),
    ],
)
def test_errors_of_the_hub_say_what_to_do(
    in_empty_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Callable[[], Exception],
    kind: type[HeliumEdgeError],
    expected: list[str],
) -> None:
    def fail(*args: Any, **kwargs: Any) -> str:
        raise error()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    text = refusal("org/tiny", kind, revision="v9")
    assert "org/tiny" in text
    for part in expected:
        assert part in text


def test_an_interrupt_is_not_an_error_of_the_hub(in_empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface_hub, "snapshot_download", interrupt)
    with pytest.raises(KeyboardInterrupt):
        resolve_source("org/tiny")
