"""Emitted programs against the same model lowered by ExecuTorch: the same numbers, and no unexplained node."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.signature import GraphSignature, TextSignature
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens
from tests.helpers.text_models import TEXT_CLASSES, export_text_model, id_rows, make_text_model, text_recipe

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from helium_edge.runtime.executorch_runner import ExecutorchRunner
from helium_edge.runtime.executorch_text import ExecutorchTextRunner
from helium_edge.runtime.xnnpack_program import read_xnnpack
from tests.helpers.xnnpack import XnnpackExport, export_xnnpack, xnnpack_recipe
from tests.helpers.xnnpack_lowered import (
    MethodModule,
    StoreParts,
    TextModule,
    build_stack,
    load_exporter,
    lower,
)

pytestmark = pytest.mark.long

MIXED: list[dict[str, Any]] = [
    {"match": r".*(embed_tokens|lm_head|v_proj)\.weight", "scheme": "int8"},
    {"match": r".*(down|gate)_proj\.weight", "skip": True},
    {"match": ".*", "scheme": "int4-g32"},
]
MODEL: dict[str, Any] = {"seed": 3, "std": 0.2, "num_hidden_layers": 2}
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "int4": ("xnnpack-int4", {}, {}),
    "int4, int8 cache": ("xnnpack-int4-kv8", {}, {"num_key_value_heads": 2}),
    "int8, biases, all logits": ("xnnpack-int8", {"logits": "all"}, {"attention_bias": True, "mlp_bias": True}),
    "float32, gelu by tanh": ("xnnpack-fp32", {}, {"hidden_act": "gelu_pytorch_tanh"}),
    "mixed schemes": ("xnnpack-int4", {"rules": MIXED}, {"num_key_value_heads": 2}),
}
# What ExecuTorch's passes leave in a layer and we do not: two transposes of keys, and one in front of a copy.
SAVED = {"XNNStaticTranspose", "XNNCopy", "XNNMultiply", "XNNSubtract", "XNNStaticSlice", "XNNStaticReshape"}
PRODUCTS = ("XNNFullyConnected", "XNNBatchMatrixMultiply", "XNNSoftmax", "XNNReciprocalSquareRoot", "XNNConvert")


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[XnnpackExport, Path]:
    """An export, and its methods lowered."""
    recipe, changes, model = CASES[request.param]
    root = tmp_path_factory.mktemp("lowered")
    options = {"cache_buckets": [20], "prefill_buckets": [3]}
    checkpoint = make_checkpoint(root / "checkpoint", **MODEL | model)
    exported = export_xnnpack(checkpoint, xnnpack_recipe(recipe, xnnpack=options, **changes), root / "out")
    load_exporter()
    stack = build_stack(exported.checkpoint.config, StoreParts(exported.store, exported.scales))
    methods = {
        str(graph.method): MethodModule(stack, graph.signature)
        for graph in exported.graphs
        if isinstance(graph.signature, GraphSignature)
    }
    lower(methods, root / "lowered.pte")
    return exported, root / "lowered.pte"


def test_the_numbers_are_the_same(pair: tuple[XnnpackExport, Path]) -> None:
    exported, lowered = pair
    tokens = random_tokens(45, exported.spec.vocab_size)
    ours = exported.runner()
    theirs = ExecutorchRunner(lowered, exported.spec, exported.decode, prefill=exported.prefill)
    for runner in (ours, theirs):
        for buffer in runner.cache_buffers:
            buffer[:] = 50  # in slots that hold nothing
    done = 0
    for length in (2, 8, 3, 1, 1, 7, 16, 1, 1, 5):
        chunk = tokens[done : done + length]
        found, expected = (each.prefill(chunk) if length > 1 else each.decode(chunk[0]) for each in (ours, theirs))
        assert np.array_equal(found, expected)
        done += length
    for mine, other in zip(ours.cache_buffers, theirs.cache_buffers, strict=True):
        assert np.array_equal(mine, other)


def test_the_nodes_are_accounted_for(pair: tuple[XnnpackExport, Path]) -> None:
    exported, lowered = pair
    ours, theirs = read_xnnpack(exported.path).methods, read_xnnpack(lowered).methods
    assert set(ours) == set(theirs)
    for name, method in ours.items():
        found, expected = Counter(method.nodes), Counter(theirs[name].nodes)
        assert sum(found.values()) < sum(expected.values())
        assert set(expected - found) <= SAVED | {"XNNAdd"}  # a single token needs no mask over itself
        assert {kind: found[kind] for kind in PRODUCTS} == {kind: expected[kind] for kind in PRODUCTS}
        assert Counter(method.operators) == Counter(theirs[name].operators)


@pytest.mark.parametrize("name", [f"Helium{suffix}" for suffix in TEXT_CLASSES])
@pytest.mark.parametrize("recipe", ["xnnpack-fp32", "xnnpack-int4"])
def test_heads_give_the_same_numbers(name: str, recipe: str, tmp_path: Path) -> None:
    folder = make_text_model(tmp_path / "checkpoint", name, seed=6)
    exported = export_text_model(folder, text_recipe(recipe), tmp_path / "out")
    signature = exported.signature
    assert isinstance(signature, TextSignature)
    load_exporter()
    config = open_checkpoint(str(folder)).config
    lower({"classify": TextModule(build_stack(config, StoreParts(exported.store)), signature)}, tmp_path / "l.pte")
    ours, theirs = exported.runner(), ExecutorchTextRunner(tmp_path / "l.pte", "classify", signature)
    for ids in id_rows().values():
        assert np.array_equal(ours.run(ids), theirs.run(ids))
