"""Bundles that the Hub client has downloaded: every command that reads one takes its id, and the API does."""

from __future__ import annotations

import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from helium_edge.cli.main import run
from huggingface_hub import constants

from helium_edge import LanguageModel, check, export, load
from helium_edge.errors import BundleError
from tests.helpers.bundles import bundle_recipe, export_bundle
from tests.helpers.chat_bundles import chat_bundle, chat_checkpoint
from tests.helpers.hub_cache import to_hub_cache
from tests.helpers.text_models import make_text_model, text_recipe

PUBLISHING = Path(__file__).parents[2] / "docs" / "publishing.md"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A folder of bundles: of a language model, of a chat fine-tune, and of a classifier."""
    folder = tmp_path_factory.mktemp("exported")
    export_bundle(tiny_checkpoint, bundle_recipe("onnx-fp32"), folder / "lm")
    chat_bundle(chat_checkpoint(folder / "chat checkpoint"), "onnx-fp32", folder / "chat")
    labelled = make_text_model(folder / "labelled", "HeliumForSequenceClassification")
    export(labelled, recipe=text_recipe("onnx-fp32"), out=folder / "labels", parity=False)
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path) -> Path:
    """The Hub's cache, with `org/lm`, `org/chat` and `org/labels`."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in ("lm", "chat", "labels"):
        shutil.copytree(exported / name, tmp_path / name)
        to_hub_cache(tmp_path / name, tmp_path / "hub", f"org/{name}")
    return tmp_path / "hub"


@pytest.mark.parametrize(
    "command",
    [
        "verify org/lm --revision main",
        "verify org/lm@main --json",
        "inspect org/lm --revision main",
        "generate org/lm a --max-new-tokens 2 --revision main",
        "generate org/chat --chat a --max-new-tokens 2 --revision main",
        "chat org/chat --max-new-tokens 2 --revision main",
        "classify org/labels a --revision main",
        "parity org/lm --tokens 20 --revision main --checkpoint CHECKPOINT",
        pytest.param(
            "bench org/lm --compare org/lm@main --context 0 --prefill 4 --repeats 2 --loads 1 --revision main",
            marks=pytest.mark.full,  # it measures the machine too
        ),
        "push org/lm --dry-run --revision main",
    ],
)
def test_commands_take_a_hub_id(
    command: str,
    hub: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n"))
    words = shlex.split(command.replace("CHECKPOINT", str(tiny_checkpoint)))
    assert run(words) == 0, capsys.readouterr().err
    following = re.search("^next: helium-edge (.*)$", capsys.readouterr().err, re.MULTILINE)
    if "--revision" in words and following is not None:
        assert "--revision main" in following[1]


def test_eval_takes_a_hub_id(hub: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Questions are longer than the cache of these bundles, which is said of the bundle once it is open."""
    asked = ["eval", "org/lm", "--limit", "2", "--original", str(tiny_checkpoint)]
    assert run([*asked, "--revision", "main"]) == 3
    assert "does not fit in a cache of" in capsys.readouterr().err
    assert run([*asked, "--revision", "none"]) == 3
    assert "org/lm" in capsys.readouterr().err
    assert run([*asked, "--record"]) == 2
    assert "org/lm is no folder to write beside" in capsys.readouterr().err


def test_the_api_takes_a_hub_id(hub: Path, tiny_checkpoint: Path) -> None:
    with load("org/lm", revision="main", threads=1) as model:
        assert isinstance(model, LanguageModel)
        assert model.logits([1, 2]).shape[0] == 2
    assert check("org/lm", revision="main", checkpoint=str(tiny_checkpoint), tokens=20, threads=1).passed
    with pytest.raises(BundleError, match=r"has the sha256 [0-9a-f]{64}, expected 0{64}"):
        load("org/lm", manifest_sha256="0" * 64)


def test_a_clone_with_all_that_tools_leave_is_a_bundle(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = shutil.copytree(exported / "lm", tmp_path / "lm")
    left = [".git/config", ".gitattributes", ".cache/huggingface/download/x.lock", ".DS_Store", "Thumbs.db"]
    for name in left:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "README.md").write_text("edited on the Hub")
    assert run(["verify", "lm", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    ignored = {row["subject"] for row in document["checks"] if row["result"].startswith("ignored")}
    assert ignored == {".git/", ".cache/huggingface/", ".gitattributes", ".DS_Store", "Thumbs.db", "README.md"}
    assert run(["generate", "lm", "a", "--max-new-tokens", "2"]) == 0
    capsys.readouterr()
    assert run(["push", "lm", "--dry-run", "--json"]) == 0
    sent = {file["path"] for file in json.loads(capsys.readouterr().out)["files"]}
    assert sent == {path.name for path in (exported / "lm").iterdir()} - {"README.md"}


def test_the_local_commands_of_publishing_md_run(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that name a folder; what they print is what the text says."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(exported / "lm", tmp_path / "helium-tiny-int4")
    text = PUBLISHING.read_text(encoding="utf-8")
    assert run(["verify", "helium-tiny-int4", "--json"]) == 0
    pinned = json.loads(capsys.readouterr().out)["manifest_sha256"]
    blocks = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    commands = [
        shlex.split(line)[1:] for line in blocks.splitlines() if re.match("helium-edge [a-z]+ helium-tiny", line)
    ]
    assert [words[0] for words in commands] == ["verify", "parity", "verify", "push"]
    for words in commands:
        given = [word.replace("$sha256", pinned) for word in words]
        if words[0] != "parity":
            assert run(given) == 0, given
    assert run(["verify", "helium-tiny-int4", "--manifest-sha256", pinned.replace(pinned[0], "0", 1)[::-1]]) == 3
