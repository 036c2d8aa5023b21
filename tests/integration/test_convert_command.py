"""`helium-edge convert` as a user types it: what it writes, prints and refuses, and a run that was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helium_edge.cli.main import run

from helium_edge.checkpoint import open_checkpoint
from tests.helpers.checkpoints import make_checkpoint

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four key-value heads."""
    return make_checkpoint(tmp_path_factory.mktemp("convert") / "before", num_key_value_heads=4)


def test_perplexities_are_measured_and_the_loss_is_said(cli: Cli, tmp_path: Path) -> None:
    code, out, err = cli("convert", "helium-tiny", "--kv-heads", "1", "-o", tmp_path / "mqa", "--json")
    assert code == 0
    document = json.loads(out)
    assert (document["kv_heads_before"], document["kv_heads"]) == (2, 1)
    assert document["cache_bytes_per_token_before"] == 2 * document["cache_bytes_per_token"]
    assert document["tokens"] > 1000
    assert document["ppl"] > 1.05 * document["ppl_before"] > 1
    assert "quality drops without uptraining" in document["warning"]
    assert "quality drops without uptraining" in err
    assert open_checkpoint(str(tmp_path / "mqa")).config.num_key_value_heads == 1


def test_text_for_people(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    code, out, err = cli("convert", checkpoint, "--kv-heads", "2", "-o", tmp_path / "after", "--no-measure")
    assert code == 0
    assert "4 before, 2 after" in out
    assert "not measured (--no-measure)" in out
    assert "warning" in err
    assert "next: helium-edge export" in err


@pytest.mark.parametrize(("family", "groups"), [("helium", 3), ("helium", 8), ("llama", 3)])
def test_heads_that_do_not_divide_are_refused(family: str, groups: int, cli: Cli, tmp_path: Path) -> None:
    """Of llama, grouped queries already: eight heads over four."""
    folder = make_checkpoint(tmp_path / "before", num_key_value_heads=4, model_type=family)
    code, out, err = cli("convert", folder, "--kv-heads", groups, "-o", tmp_path / "after", "--no-measure")
    assert (code, out) == (2, "")
    assert f"4 key-value heads cannot be pooled to {groups}; allowed: 1, 2" in err
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


@pytest.mark.parametrize("groups", ["0", "-1", "two"])
def test_numbers_that_are_none_are_refused(groups: str, cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    code, _, err = cli("convert", checkpoint, "--kv-heads", groups, "-o", tmp_path / "after")
    assert code == 2
    assert "--kv-heads" in err


def test_an_output_that_is_there_stays(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "note").write_text("mine", encoding="utf-8")
    code, _, err = cli("convert", checkpoint, "--kv-heads", "2", "-o", taken, "--no-measure")
    assert code == 2
    assert "is already there" in err
    assert [path.name for path in taken.iterdir()] == ["note"]
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_checkpoint_that_is_none_is_bad_input(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = cli("convert", tmp_path / "empty", "--kv-heads", "1", "-o", tmp_path / "o", "--no-measure")
    assert code == 3
    assert "config.json" in err
    assert not (tmp_path / "o").exists()


KILLED = """
import sys, time
from pathlib import Path
from helium_edge.checkpoint import open_checkpoint
from helium_edge.checkpoint.gqa import write_grouped

class Slow:
    def advance(self, amount=1, note=""):
        print(note, flush=True)
        time.sleep(600)

write_grouped(open_checkpoint(sys.argv[1]), 2, Path(sys.argv[2]), Slow())
"""


def test_the_folder_of_a_killed_run_is_removed_by_the_next(cli: Cli, checkpoint: Path, tmp_path: Path) -> None:
    """And that of a run that is alive is not."""
    out = tmp_path / "after"
    command = [sys.executable, "-c", KILLED, str(checkpoint), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline()
            (partial,) = tmp_path.iterdir()
            code, _, stderr = cli("convert", checkpoint, "--kv-heads", "1", "-o", out, "--no-measure")
            assert code == 2
            assert f"another conversion to it is running (process {other.pid})" in stderr
            assert partial.is_dir()
        finally:
            os.kill(other.pid, signal.SIGKILL)
    assert list(tmp_path.iterdir()) == [partial]
    assert cli("convert", checkpoint, "--kv-heads", "2", "-o", out, "--no-measure")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["after"]
