"""A config.json of transformers 5, made readable for transformers 4."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.config import ModelConfig
from helium_edge.parity.spelling import folder_for_transformers, spelled_as_4
from tests.helpers.checkpoints import make_checkpoint


@pytest.mark.parametrize(("version", "spelling"), [("5.0.0", "5.x"), ("5.24.0", "4.x"), ("4.57.6", "4.x")])
def test_what_can_be_read_stays_where_it_is(version: str, spelling: str, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path, spelling=spelling)))  # type: ignore[arg-type]
    with folder_for_transformers(checkpoint, version) as folder:
        assert folder == checkpoint.folder


def test_a_folder_for_transformers_4(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path, spelling="5.x", shards=2, rope_theta=777.0)))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with folder_for_transformers(checkpoint, "4.57.6") as folder:
        assert folder != checkpoint.folder
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        assert written["rope_theta"] == 777.0
        assert "rope_parameters" not in written
        assert ModelConfig.from_file(folder / "config.json") == checkpoint.config
        files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert not folder.exists()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    del files["config.json"], before["config.json"]
    assert files == before


def test_rope_is_that_of_the_file() -> None:
    scaled = {"rope_type": "llama3", "factor": 8.0, "rope_theta": 5.0}
    expected = {"rope_theta": 5.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}
    assert spelled_as_4({"rope_parameters": scaled}) == expected
    assert spelled_as_4({"a": 1, "rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}}) == {
        "a": 1,
        "rope_theta": 5.0,
    }
    assert spelled_as_4({"rope_theta": 7.0, "rope_parameters": {}}) == {"rope_theta": 7.0}
