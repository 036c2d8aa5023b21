"""A real bundle of a random checkpoint: built, published, opened, run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helium_edge.bundle import (
    Bundle,
    BundleWriter,
    CacheSection,
    GraphEntry,
    ModelSection,
    QuantizationSection,
    check_golden,
    open_bundle,
    record_golden,
    write_companions,
)
from helium_edge.checkpoint import open_checkpoint
from helium_edge.errors import BundleError
from helium_edge.quant import QuantizedStore
from helium_edge.targets import load_target
from helium_edge.targets.loading import open_runner
from tests.helpers.exports import random_tokens, small_recipe
from tests.unit.bundle.bundles import make_manifest, write_bundle


@pytest.fixture(scope="module", params=["onnx-int4", "onnx-int4-portable"])
def bundle(
    request: pytest.FixtureRequest, tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    root = tmp_path_factory.mktemp("real")
    recipe = small_recipe(request.param)
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    config = checkpoint.config
    target = load_target("onnx")
    store = QuantizedStore(checkpoint, recipe.quantization, root / "store")
    with BundleWriter(root / "b") as writer:
        graphs = target.build(store, recipe, writer.folder, lambda _: None)
        write_companions(checkpoint, writer.folder)
        manifest = make_manifest(
            model=ModelSection.from_config(config),
            graphs=[GraphEntry.from_signature(graph.file, graph.signature) for graph in graphs],
            cache=CacheSection.from_spec(target.cache(config, recipe)),
            cache_len=recipe.shapes.cache_len,
            prefill_len=recipe.shapes.prefill_len,
            quantization=QuantizationSection.from_reports(
                recipe, store.reports(), fingerprint=store.fingerprint()
            ),
        )
        runner = open_runner(Bundle(writer.folder, manifest), threads=1)
        prompt = random_tokens(11, config.vocab_size)
        golden = record_golden(runner, "random", prompt, new_tokens=8)
        writer.publish(manifest.model_copy(update={"golden": golden}))
    return open_bundle(root / "b")


@pytest.mark.parametrize("static", [False, True])
def test_the_published_bundle_repeats_its_golden_trace(bundle: Bundle, static: bool) -> None:
    golden = bundle.manifest.golden
    assert golden is not None
    check = check_golden(open_runner(bundle, threads=1, static=static), golden, 1e-3)
    assert (check.steps, check.near_ties) == (8, ())


@pytest.mark.parametrize(("static", "missing"), [(True, "decoder.onnx"), (False, "decode.onnx")])
def test_only_the_graphs_that_were_asked_for_are_loaded(
    bundle: Bundle, tmp_path: Path, static: bool, missing: str
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "b")
    (tmp_path / "b" / missing).unlink()
    part = open_bundle(tmp_path / "b", unverified=True)
    assert open_runner(part, threads=1, static=static).prefill([1, 5, 7]).shape == (1, 160)
    with pytest.raises(BundleError):
        open_runner(part, threads=1, static=not static)


def test_the_runner_has_the_sizes_of_the_manifest(bundle: Bundle) -> None:
    runner = open_runner(bundle, threads=1)
    assert (runner.vocab_size, runner.cache_len, runner.position) == (bundle.manifest.model.vocab_size, 48, 0)
    logits = runner.prefill(random_tokens(20, runner.vocab_size))
    assert logits.shape == (1, runner.vocab_size)
    assert np.isfinite(logits).all()


def test_a_bundle_of_another_runtime_is_refused_by_name(tmp_path: Path) -> None:
    bundle = open_bundle(write_bundle(tmp_path / "b", runtime="executorch"))
    with pytest.raises(BundleError, match="runs on executorch"):
        open_runner(bundle)


def test_reading_a_manifest_imports_no_runtime() -> None:
    code = (
        "import sys, helium_edge.bundle; "
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'transformers') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout == "[]\n"
