"""All targets of a recipe are of one checkpoint, opened once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.errors import RecipeError
from helium_edge.exporting import ExportRequest, export_all
from helium_edge.exporting import all as all_module
from helium_edge.exporting import source as source_module
from helium_edge.exporting.one import Job
from helium_edge.recipe import parse_recipe
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import small_recipe
from tests.helpers.progress import Recorder

TWO = """
name: two
targets: {onnx: {}, xnnpack: {}}
shapes: {prefill_len: 8, cache_len: 32}
quantization:
  rules:
    - {match: '.*', scheme: int8}
"""


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Checkpoint]:
    """Every checkpoint that is opened."""
    found: list[Checkpoint] = []

    def spy(source: str, **options: Any) -> Checkpoint:
        found.append(open_checkpoint(source, **options))
        return found[-1]

    monkeypatch.setattr(source_module, "open_checkpoint", spy)
    return found


def test_an_export_opens_its_checkpoint_once(tmp_path: Path, opened: list[Checkpoint]) -> None:
    source = make_checkpoint(tmp_path / "checkpoint")
    recipe = small_recipe("onnx-int8")
    export_all(ExportRequest(str(source), recipe, tmp_path / "bundle", parity=False, run=False))
    assert len(opened) == 1


def test_what_is_to_be_known_is_told_at_once_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_module, "export_one", lambda job, store, progress: progress.stage("work"))
    source = make_checkpoint(tmp_path / "checkpoint")
    (source / "generation_config.json").write_text('{"num_beams": 4, "stop_strings": ["x"]}')
    (source / "added_tokens.json").write_text('{"[PAD]": 262}')
    seen = Recorder()
    recipe = small_recipe("onnx-int8")
    both = recipe.model_copy(update={"targets": parse_recipe(TWO, where="here").targets})
    export_all(ExportRequest(str(source), both, tmp_path / "out", parity=False, run=False), seen)
    assert [stage for stage, _, _ in seen.stages] == ["read checkpoint", "work", "work"]
    assert len(set(seen.told)) == len(seen.told)
    assert seen.told[0].startswith("note: tokenizer.json: the bundle's holds the added tokens of")
    assert any(line.startswith("warning: generation_config.json: num_beams = 4: not") for line in seen.told)
    assert seen.told[-1].startswith("warning: genai_config.json has no key for stop_strings:")


def test_all_targets_are_exported_from_the_same_one(
    tmp_path: Path, opened: list[Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch of the Hub that moves between two targets cannot put two commits under one store."""
    pytest.importorskip("executorch", reason="executorch is not installed")
    jobs: list[Job] = []
    monkeypatch.setattr(all_module, "export_one", lambda job, store, progress: jobs.append(job))
    source = make_checkpoint(tmp_path / "checkpoint")
    export_all(ExportRequest(str(source), parse_recipe(TWO, where="here"), tmp_path / "out", parity=False))
    assert [job.out.name for job in jobs] == ["onnx", "xnnpack"]
    assert [job.checkpoint for job in jobs] == opened * 2


def test_a_target_that_does_not_fit_is_refused_before_the_first_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("executorch", reason="executorch is not installed")
    monkeypatch.setattr(all_module, "export_one", lambda *_: pytest.fail("it was built"))
    source = make_checkpoint(tmp_path / "checkpoint")
    recipe = parse_recipe(f"{TWO}kv_cache: int8\n".replace("onnx: {}", "onnx: {dialect: portable}"), where="here")
    with pytest.raises(RecipeError, match="needs the dialect contrib"):
        export_all(ExportRequest(str(source), recipe, tmp_path / "out", parity=False))
