"""`optimum-cli export helium-edge`, found by optimum in its own plug-in folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.optimum

OPTIMUM = [sys.executable, "-m", "optimum.commands.optimum_cli", "export", "helium-edge"]
OURS = [sys.executable, "-m", "helium_edge.cli.main", "export"]


def call(command: list[str], *arguments: str, cwd: Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [*command, *arguments], cwd=cwd, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_optimum_lists_the_command(tmp_path: Path) -> None:
    code, out, _ = call(OPTIMUM[:-1], "--help", cwd=tmp_path)
    assert code == 0
    assert "helium-edge" in out
    assert "onnx" in out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["helium-tiny", "--recipe", "onnx-int8", "--dry-run", "--json"], 0),
        (["./nothing", "--recipe", "onnx-int4", "-o", "x"], 3),
    ],
    ids=["plan", "bad input"],
)
def test_does_what_our_own_command_does(arguments: list[str], code: int, tmp_path: Path) -> None:
    found = call(OPTIMUM, *arguments, cwd=tmp_path)
    assert found == call(OURS, *arguments, cwd=tmp_path)
    assert found[0] == code
    assert not list(tmp_path.iterdir())


def test_the_same_bundle(tmp_path: Path) -> None:
    shape = ["--recipe", "onnx-fp32", "--cache-len", "64", "--prefill-len", "16", "--no-parity"]
    for folder, command in (("a", OPTIMUM), ("b", OURS)):
        code, _, err = call(command, "helium-tiny", *shape, "-o", folder, cwd=tmp_path)
        assert code == 0, err
    bundles = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "ab"]
    assert bundles[0] == bundles[1]
    assert "helium-edge.json" in bundles[0]
