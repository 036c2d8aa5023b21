"""A graph cut into stages and run one after the other is the graph: the logits and cache rows are the runner's."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from helium_edge.bundle.kv_scales import read_kv_scales
from helium_edge.model.kv_cache import SIDES
from helium_edge.targets import load_target
from helium_edge.targets.debug import DebugCall, codes_of_rows
from helium_edge.targets.loading import open_runner
from tests.helpers.bundles import CACHE_LEN, MODEL, Exported, bundle_recipe, export_bundle
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens
from tests.helpers.xnnpack import pieces_of

TOKENS = random_tokens(6, 320)

needs_executorch = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="executorch is not installed"
)


@pytest.mark.parametrize(
    ("recipe", "static"),
    [
        ("onnx-int4", False),
        ("onnx-int4", True),
        ("onnx-int4-portable", True),
        ("onnx-int4-kv8", False),
        ("onnx-int4-kv16", False),
        ("web-int4", False),
        pytest.param("xnnpack-int4", True, marks=needs_executorch),
        pytest.param("xnnpack-int4-kv8", True, marks=needs_executorch),
        pytest.param("xnnpack-int4-kv16", True, marks=needs_executorch),
    ],
)
def test_the_stages_make_the_graph(recipe: str, static: bool, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "c", **MODEL | {"num_hidden_layers": 2}, vocab_size=320)
    with pieces_of(5, 64) if recipe.startswith("xnnpack") else contextlib.nullcontext():
        export = export_bundle(checkpoint, bundle_recipe(recipe), tmp_path / "b")
    bundle = export.open()
    runner = open_runner(bundle, threads=1, static=static)
    expected = [runner.prefill(TOKENS[:5])[-1], runner.decode(TOKENS[5])]
    target = load_target(bundle.manifest.target.name)
    programs = {phase: p for p in target.debug(bundle, static=static) for phase in p.phases}
    caches = [_empty(export) for _ in range(2)]
    for phase, tokens, past, logits in (
        ("prefill", TOKENS[:5], 0, expected[0]),
        ("decode", TOKENS[5:], 5, expected[1]),
    ):
        program, call = programs[phase], DebugCall(np.array(tokens), past)
        values = {"residual": program.embedding(call)}
        for index, cache in enumerate(caches):
            found = program.layer(index, call, values, cache, cut=False)
            values = {"residual": found["sum2"], "delta": found["down_proj"]}
            for buffer, kind in zip(cache, ("key", "value"), strict=True):
                buffer[:, past : past + len(tokens)] = found[kind][:, : len(tokens)]
        assert np.array_equal(program.end(call, values, cut=False)["logits"][-1], logits)
    scales = read_kv_scales(bundle)
    for number, theirs in enumerate(runner.cache_buffers):
        ours, side = caches[number // 2][number % 2], SIDES[number % 2]
        codes = codes_of_rows(ours, scales, number // 2, side, theirs.dtype.name)
        assert codes.dtype == theirs.dtype
        assert np.array_equal(codes[:, :6], theirs.reshape(ours.shape)[:, :6])


def _empty(export: Exported) -> tuple[np.ndarray, np.ndarray]:
    config = export.store.config
    shape = (config.num_key_value_heads, CACHE_LEN, config.head_dim)
    return np.zeros(shape, np.float32), np.zeros(shape, np.float32)
