"""A target is a package and a line: a toy one exports, verifies, generates and passes parity, by the CLI."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINE = "from helium_edge.registry import TARGETS; TARGETS['toy'] = 'tests.toy_target'; "
RECIPE = """
name: toy-int4
targets:
  toy: {order: backward}
shapes: {prefill_len: 16, cache_len: 256}
quantization:
  method: mse
  rules:
    - {match: '.*(embed_tokens|lm_head)\\.weight', scheme: int8}
    - {match: '.*', scheme: int4-g32}
gates: {mean_kld: 0.06, top1: 0.9, ppl_ratio: 1.05, near_tie: 0.02}
"""


def run(*words: str, folder: Path, code: int = 0) -> str:
    """What a command prints, in a process that has the line."""
    program = f"import sys; {LINE}from helium_edge.cli.main import main; main()"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *words], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("toy")
    (root / "toy.yaml").write_text(RECIPE)
    run("export", "helium-tiny", "--recipe", "toy.yaml", "-o", "bundle", folder=root)
    return root


def test_it_is_a_bundle_like_any_other(folder: Path) -> None:
    manifest = json.loads((folder / "bundle" / "helium-edge.json").read_text())
    assert manifest["target"] == {"name": "toy", "options": {"order": "backward"}}
    assert manifest["runtime"] == "torch"
    run("verify", "bundle", folder=folder)
    assert "toy" in run("inspect", "bundle", folder=folder)


def test_it_generates(folder: Path) -> None:
    assert len(run("generate", "bundle", "The sensor", "--max-new-tokens", "8", folder=folder)) > 20


def test_it_passes_parity(folder: Path) -> None:
    text = run("parity", "bundle", "--tokens", "300", folder=folder)
    assert "L0" in text
    assert "L3" in text


def test_its_options_are_checked_by_its_own_model(folder: Path) -> None:
    (folder / "wrong.yaml").write_text(RECIPE.replace("order: backward", "ordre: backward"))
    said = run("export", "helium-tiny", "--recipe", "wrong.yaml", "-o", "b", folder=folder, code=2)
    assert "unknown key 'targets.toy.ordre'" in said
    assert "order" in said
    (folder / "wrong.yaml").write_text(RECIPE.replace("order: backward", "order: sideways"))
    said = run("export", "helium-tiny", "--recipe", "wrong.yaml", "-o", "b", folder=folder, code=2)
    assert 'targets.toy.order = "sideways"' in said


def test_without_the_line_it_is_unknown(folder: Path) -> None:
    command = [sys.executable, "-m", "helium_edge.cli.main", "generate", "bundle", "x"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 3
    assert "made for toy, runs on torch, which this version does not know" in done.stderr
