"""An int8 KV cache on XNNPACK: what the bundle says, what the delegate holds, and which codes it writes."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from helium_edge.bundle import open_bundle
from helium_edge.bundle.kv_scales import read_kv_scales
from helium_edge.errors import BundleError
from helium_edge.model.kv_cache import SIDES
from helium_edge.targets.loading import open_runner
from tests.helpers.bundles import CACHE_LEN, MODEL, Exported, bundle_recipe, export_bundle
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from helium_edge.model.decoder import HeliumDecoder
from helium_edge.pte.file import PteFile
from helium_edge.pte.xnnpack_schema import XNNBatchMatrixMultiply, XNNClamp, XNNConvert
from helium_edge.runtime.executorch_runner import ExecutorchRunner
from helium_edge.runtime.xnnpack_program import read_xnnpack
from helium_edge.targets.xnnpack.anatomy import dissect, inputs_of
from tests.helpers.xnnpack import OUTSIDE
from tests.helpers.xnnpack_lowered import StoreParts, load_exporter

VOCAB, BUCKET = 320, 24
METHODS = ["prefill", "decode", f"decode_{BUCKET}"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("kv8") / "checkpoint", **MODEL | {"vocab_size": VOCAB})


@pytest.fixture(scope="module")
def exported(checkpoint: Path) -> Exported:
    recipe = bundle_recipe("xnnpack-int4-kv8", xnnpack={"cache_buckets": [BUCKET]})
    return export_bundle(checkpoint, recipe, checkpoint.parent / "bundle")


def test_the_manifest_describes_the_cache(exported: Exported) -> None:
    manifest = open_bundle(exported.folder).manifest
    assert manifest.cache is not None
    assert manifest.cache.scales is not None
    assert (manifest.cache.dtype, manifest.cache.update, manifest.runtime_min_version) == ("int8", "append", "1.5")
    model = manifest.model
    expected = 2 * model.layers * model.kv_heads * model.head_dim * manifest.cache_len
    assert manifest.cache.total_bytes == expected
    assert manifest.memory.cache_bytes == expected + expected * BUCKET // CACHE_LEN
    assert manifest.cache.scales.tokens > 1000
    assert [graph.method for graph in manifest.graphs] == METHODS
    roles = ("past_key", "past_value", "new_key", "new_value")
    for graph in manifest.graphs:
        specs = [*graph.input_specs(), *graph.output_specs()]
        caches = [spec for spec in specs if spec.role in roles]
        assert len(caches) == 4 * model.layers
        assert {spec.dtype for spec in caches} == {"int8"}


def test_scales_are_those_of_the_onnx_bundle(exported: Exported, checkpoint: Path, tmp_path: Path) -> None:
    """One calibration: the same text, the same decoder with the same integers."""
    other = export_bundle(checkpoint, bundle_recipe("onnx-int4-kv8"), tmp_path / "onnx")
    name = "kv_scales.safetensors"
    assert (other.folder / name).read_bytes() == (exported.folder / name).read_bytes()


def test_every_method_is_one_delegate(exported: Exported) -> None:
    for method in read_xnnpack(exported.folder / "decoder.pte").methods.values():
        assert method.delegates == 1
        assert set(method.operators) <= OUTSIDE


@pytest.mark.parametrize("method", METHODS)
def test_a_cache_becomes_float32_only_while_its_layer_runs(exported: Exported, method: str) -> None:
    """Were all converted first, which no result would show, they would take the memory of a float32 cache.

    XNNPACK does that itself where a product takes what a conversion gives: hence the clamp in between.
    """
    anatomy = dissect(PteFile(exported.folder / "decoder.pte"), method, exported.store.config)
    delegate = anatomy.delegate
    order = {node.output_id: number for number, node in enumerate(delegate.nodes)}
    pasts = delegate.plan.inputs[-2 * len(anatomy.layers) :]
    for number, past in enumerate(pasts):
        layer = anatomy.layers[number // 2]
        (user,) = delegate.users[delegate.value_of(past)]
        assert isinstance(user, XNNConvert)
        (user,) = delegate.users[user.output_id]
        assert isinstance(user, XNNClamp)
        real = user.output_id
        assert order[layer.qkv[-1].out] < order[real] < order[layer.o.out]
        (product,) = delegate.users[real]
        assert isinstance(product, XNNBatchMatrixMultiply)
        assert inputs_of(product)[1] == real


def test_codes_are_the_nearest_to_rows_over_scales(exported: Exported) -> None:
    """The first layer, computed by the float32 decoder: no row of it depends on the cache."""
    bundle = exported.open()
    scales = read_kv_scales(bundle)
    assert scales is not None
    runner = open_runner(bundle, threads=1)
    tokens = random_tokens(30, VOCAB)
    runner.prefill(tokens[:20])
    for token in tokens[20:]:
        runner.decode(token)
    config = exported.store.config
    load_exporter()
    decoder = HeliumDecoder(config, exported.store, CACHE_LEN, StoreParts(exported.store))
    shape = (config.num_key_value_heads, CACHE_LEN, config.head_dim)
    past = [torch.zeros(shape) for _ in range(2 * config.num_hidden_layers)]
    with torch.inference_mode():
        _, rows = decoder(torch.tensor([tokens]), torch.tensor([0]), past)
    buffers = runner.cache_buffers  # type: ignore[attr-defined]
    assert {buffer.dtype for buffer in buffers} == {np.dtype(np.int8)}
    for side, codes, new in zip(SIDES, buffers[:2], rows[:2], strict=True):
        exact = new.double() / scales.side(0, side)[:, None].double()
        gap = torch.from_numpy(codes[:, :30]).double() - exact.clamp(-128, 127)
        assert gap.abs().max() <= 0.5 + 1e-3
        assert gap.abs().max() > 0.4  # not finer than codes are
        assert np.abs(codes[:, :30].astype(int)).max() > 40  # the scales are of this model's size
        assert not codes[:, 30:].any()


def test_the_same_input_gives_the_same_bytes(exported: Exported, checkpoint: Path, tmp_path: Path) -> None:
    recipe = bundle_recipe("xnnpack-int4-kv8", xnnpack={"cache_buckets": [BUCKET]})
    again = export_bundle(checkpoint, recipe, tmp_path / "again")
    for file in sorted(exported.folder.iterdir()):
        assert (again.folder / file.name).read_bytes() == file.read_bytes(), file.name


def test_a_program_with_another_cache_is_refused(exported: Exported) -> None:
    """Its buffers would be read past their end."""
    spec = exported.open().manifest.decoder_spec()
    floats = dataclasses.replace(spec, cache=dataclasses.replace(spec.cache, dtype="float32"))
    with pytest.raises(BundleError, match=r"input 3 is .* of type 1, the manifest says past_key.* float32"):
        ExecutorchRunner(exported.folder / "decoder.pte", floats, {CACHE_LEN: "decode"})


def test_lost_scales_are_named(exported: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported.folder, tmp_path / "b"))
    (folder / "kv_scales.safetensors").unlink()
    with pytest.raises(BundleError, match=r"kv_scales\.safetensors"):
        read_kv_scales(open_bundle(folder, unverified=True))
