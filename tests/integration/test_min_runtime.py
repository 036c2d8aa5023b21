"""`min_runtime` of a recipe: older forms of the graphs, the same integers, and what older runtimes cannot do.

That the versions are true is shown by test_oldest_runtimes.py, which installs them.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from helium_edge.bundle import open_bundle
from helium_edge.errors import RecipeError
from helium_edge.exporting import ExportRequest, export_all
from helium_edge.model.weights import EMBEDDING
from helium_edge.pte.executorch_schema import EXECUTORCH_VERSION
from helium_edge.recipe import load_recipe, parse_recipe, recipe_names
from helium_edge.targets import load_target
from helium_edge.targets.artifact import StoredCodes
from helium_edge.targets.loading import open_runner

OLDER = """
name: older
targets:
  onnx: {{min_runtime: '{version}'}}
shapes: {{prefill_len: 16, cache_len: 64}}
quantization:
  rules:
    - {{match: 'model\\.embed_tokens\\.weight', scheme: {embedding}}}
    - {{match: 'lm_head\\.weight', scheme: {head}}}
    - {{match: '.*', scheme: int4-g32}}
gates: {{}}
"""


def export(text: str, checkpoint: Path, out: Path) -> Path:
    export_all(ExportRequest(str(checkpoint), parse_recipe(text, where="older.yaml"), out, parity=False))
    return out


def logits(folder: Path) -> np.ndarray:
    runner = open_runner(open_bundle(folder), threads=1)
    return np.stack([runner.prefill([1, 5, 9, 2])[-1], runner.decode(7)])


@pytest.mark.parametrize("embedding", ["int8", "int4-g32", "int4-g32-asym", "int4-g64-asym"])
def test_the_older_forms_compute_the_same(embedding: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    """From the same codes, which are found in the graph again."""
    bundles, results = {}, {}
    for version in ("1.23", "1.22"):
        text = OLDER.format(version=version, embedding=embedding, head="int8")
        bundles[version] = open_bundle(export(text, tiny_checkpoint, tmp_path / version))
        results[version] = logits(bundles[version].folder)
        assert bundles[version].manifest.runtime_min_version == version
    new, old = results["1.23"], results["1.22"]
    np.testing.assert_allclose(old, new, rtol=0, atol=2e-6 * float(np.abs(new).max()))
    artifacts = [load_target("onnx").read_back(bundle) for bundle in bundles.values()]
    assert not [each for artifact in artifacts for each in artifact.differences()]
    stored = [artifact.matrix(EMBEDDING) for artifact in artifacts]
    assert isinstance(stored[0], StoredCodes)
    assert isinstance(stored[1], StoredCodes)
    assert torch.equal(stored[0].codes, stored[1].codes)
    assert torch.equal(stored[0].scales, stored[1].scales)


def test_the_older_form_has_no_operator_that_older_runtimes_lack(tiny_checkpoint: Path, tmp_path: Path) -> None:
    text = OLDER.format(version="1.19", embedding="int8", head="int4-g32")
    folder = export(text, tiny_checkpoint, tmp_path / "bundle")
    for path in folder.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        assert (model.ir_version, {each.domain: each.version for each in model.opset_import}) == (
            9, {"": 20, "com.microsoft": 1},
        )  # fmt: skip
        assert not {node.op_type for node in model.graph.node} & {"GatherBlockQuantized", "RMSNormalization"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("head: none", "head: none"), r"lm_head\.weight is int8, and the product of int8 matrices needs 1\.22"),
        (("min_runtime: '1.19'", "min_runtime: '1.19', dialect: portable"), r"opset 23, which 1\.23 brought"),
        (("gates:", "kv_cache: int8\ngates:"), r"an int8 KV cache needs 1\.27"),
    ],
)
def test_what_older_runtimes_cannot_do_is_refused(
    change: tuple[str, str], message: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    text = OLDER.format(version="1.19", embedding="int8", head="int8").replace(*change)
    with pytest.raises(RecipeError, match=message) as caught:
        export(text, tiny_checkpoint, tmp_path / "bundle")
    assert "\n" not in caught.value.message
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_says_what_runs_it(name: str) -> None:
    """And what is installed, which runs all of them in these tests, is no older."""
    recipe = load_recipe(name)
    for each in recipe.targets.names():
        target = load_target(each)
        oldest = target.min_runtime(None, recipe)  # type: ignore[arg-type]  # which no target looks at
        assert oldest is not None
        assert re.fullmatch(r"\d+\.\d+", oldest)
    if recipe.targets.names() != ("onnx",):
        assert oldest == EXECUTORCH_VERSION


def test_programs_are_of_the_executorch_that_they_are_tested_on() -> None:
    try:
        installed = metadata.version("executorch")
    except metadata.PackageNotFoundError:
        pytest.skip("executorch is not installed")
    assert installed.split(".")[:2] == EXECUTORCH_VERSION.split(".")
