"""Every product of a bundle on the aarch64 wheels, emulated, against the rule by which parity judges for ARM64."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from arm64 import find_toolchain
from arm64.operators import run_operators
from arm64.products import cut_onnx, cut_pte, errors
from arm64.toolchain import CPUS
from arm64.wheels import fetch_library, library_folder
from helium_edge import export
from helium_edge.bundle import Bundle, open_bundle
from helium_edge.config import ModelConfig
from helium_edge.errors import MissingToolError
from helium_edge.parity.bundle_store import BundleStore
from helium_edge.recipe import Recipe, load_recipe
from helium_edge.targets import load_target
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import small_recipe

try:
    find_toolchain()
except MissingToolError as missing:
    pytest.skip(str(missing), allow_module_level=True)
if not library_folder("onnxruntime").is_dir():
    # Tests download nothing; .ci/run does it before them.
    pytest.skip("the ARM64 libraries are not in the cache", allow_module_level=True)

pytestmark = pytest.mark.full  # what compiles and emulates for another processor

SUMS = 1e-6
"""Relative rms of two float32 sums of the same products."""
WIDE_SUMS = 1e-4
"""The same of int8 weights without i8mm: 3e-5 is the most that was seen. In place of a signed product the kernel
adds up one of codes from 0 to 255, and takes away what that is too much: float32 keeps fewer digits of it."""

MODEL = {"std": 0.1, "hidden_size": 256, "head_dim": 64, "intermediate_size": 320, "num_hidden_layers": 2}
INT8 = {"match": r"model\.embed_tokens\.weight|lm_head\.weight", "scheme": "int8"}


def body(scheme: str) -> list[dict[str, str]]:
    return [INT8, {"match": r".*_proj\.weight", "scheme": scheme}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("products") / "checkpoint", **MODEL)


def cut_bundle(recipe: Recipe, checkpoint: Path, tmp_path: Path) -> tuple[Bundle, BundleStore, Path]:
    bundle = open_bundle(export(checkpoint, recipe=recipe, out=tmp_path / "b", parity=False, run=False).bundle)
    folder = tmp_path / "cut"
    folder.mkdir()
    return bundle, BundleStore(bundle, ModelConfig.from_file(bundle.path("config.json")), recipe), folder


@pytest.mark.parametrize(
    ("scheme", "options"),
    [
        ("int4-g32", {"int8_block_size": 256}),
        ("int4-g64-asym", {"int8_block_size": 32}),
        ("int8", {"int8_block_size": 64}),
        ("int4-g32", {"dialect": "portable"}),
    ],
)
def test_products_of_onnx_runtime_are_those_of_the_rule(
    scheme: str, options: dict[str, object], checkpoint: Path, tmp_path: Path
) -> None:
    recipe = small_recipe("onnx-int4", rules=body(scheme), onnx=options)
    bundle, store, folder = cut_bundle(recipe, checkpoint, tmp_path)
    products, many = cut_onnx(bundle, store, folder, rows=5)
    assert len(products) == 2 * 5 + 1
    jobs = [many, cut_onnx(bundle, store, folder, rows=1)[1]]
    schemes = {weight.name: weight.scheme for weight in store.plan}
    for cpu in ("cortex-a53", "cortex-a76", "i8mm"):
        rule = load_target("onnx").arithmetic(recipe, store.plan, CPUS[cpu].kind)
        assert rule.rounds == (cpu != "cortex-a53")
        results = run_operators(find_toolchain(), fetch_library("onnxruntime"), cpu, folder, jobs)
        for job, found in zip(jobs, results, strict=True):
            for product, error in errors(products, store, rule, job, found):
                weight = schemes[product.matrices[0]]
                wide = cpu == "cortex-a76" and weight is not None and weight.bits == 8
                assert error < (WIDE_SUMS if wide else SUMS), (cpu, product)


@pytest.mark.skipif(not library_folder("executorch").is_dir(), reason="no ExecuTorch for ARM64 in the cache")
@pytest.mark.parametrize("scheme", ["int4-g32", "int8"])
def test_products_of_executorch_are_those_of_the_rule(scheme: str, checkpoint: Path, tmp_path: Path) -> None:
    data = load_recipe("xnnpack-int4").model_dump(mode="json")
    data["quantization"] = {"method": "mse", "rules": body(scheme)}
    data["shapes"] = {"prefill_len": 8, "cache_len": 48}
    recipe = Recipe.model_validate_json(json.dumps(data))
    bundle, store, folder = cut_bundle(recipe, checkpoint, tmp_path)
    cuts = [cut_pte(bundle, store, folder, method) for method in ("prefill", "decode")]
    rule = load_target("xnnpack").arithmetic(recipe, store.plan, "arm64")
    for cpu in ("cortex-a53", "cortex-a76", "i8mm"):
        jobs = [job for _, job in cuts]
        results = run_operators(find_toolchain(), fetch_library("executorch"), cpu, folder, jobs)
        for (products, job), found in zip(cuts, results, strict=True):
            for product, error in errors(products, store, rule, job, found):
                assert error < SUMS, (cpu, product)
