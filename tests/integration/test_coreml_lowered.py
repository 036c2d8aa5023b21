"""The programs that we write are those that lowering torch modules gives: an oracle that shares no line with them.

Both are read from their `.pte` and evaluated by our interpreter. Every output is the same, bit for bit, and so is
every constant. Only `gelu_pytorch_tanh` is not compared: coremltools 9.0 loses how it is approximated.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("executorch") is None or importlib.util.find_spec("coremltools") is None:
    pytest.skip("executorch and coremltools are not installed", allow_module_level=True)

from helium_edge.quant import QuantizedStore
from helium_edge.runtime.coreml_program import CoremlMethod, read_coreml, stored_weights
from helium_edge.runtime.coreml_runner import InterpretedMethod
from helium_edge.targets.base import BuiltGraph
from helium_edge.targets.coreml.target import deployment_target
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.coreml import CACHE_LEN, PREFILL_LEN, coreml_recipe, export_coreml
from tests.helpers.coreml_lowered import lower
from tests.helpers.text_models import export_text_model, id_rows, make_text_model, text_recipe

pytestmark = pytest.mark.long

# What a lowering adds, beside casts of indices: it lets one of the two lookups in RoPE tables count from the end.
ADDED = Counter({"greater_equal": 1, "add": 1, "select": 1})

MIXED = [
    {"match": r".*v_proj\.weight|lm_head\.weight", "scheme": "int8"},
    {"match": r".*down_proj\.weight", "skip": True},
    {"match": ".*", "scheme": "int4-g32-asym"},
]

DECODERS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "fp16": ("coreml-fp16", {}, {"tie_word_embeddings": True, "hidden_act": "relu"}),
    "int8": (
        "coreml-int8",
        {"logits": "all"},
        {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1},
    ),
    "int4": (
        "coreml-int4",
        {},
        {"hidden_size": 128, "head_dim": 32, "num_key_value_heads": 4, "hidden_act": "gelu"},
    ),
    "mixed": ("coreml-int4", {"rules": MIXED}, {}),
}
TEXT_CLASSES = {
    "HeliumModel": "coreml-fp16",
    "HeliumForSequenceClassification": "coreml-int8",
    "LlamaForTokenClassification": "coreml-int4",
}


def programs(
    folder: Path, path: Path, store: QuantizedStore, graphs: list[BuiltGraph], ios: int
) -> list[tuple[CoremlMethod, CoremlMethod, Any]]:
    """Each method as we wrote it and as it is lowered, with its signature."""
    lower(store, {str(graph.method): graph.signature for graph in graphs}, ios, folder / "lowered.pte")
    ours, theirs = read_coreml(path), read_coreml(folder / "lowered.pte")
    assert set(ours) == set(theirs) == {graph.method for graph in graphs}
    return [(ours[str(graph.method)], theirs[str(graph.method)], graph.signature) for graph in graphs]


def assert_alike(ours: CoremlMethod, theirs: CoremlMethod) -> None:
    """Inputs, outputs, deployment target, and constants: codes, scales and zero points, in the order of use."""
    assert (ours.inputs, ours.outputs) == (theirs.inputs, theirs.outputs)
    assert ours.specification_version == theirs.specification_version
    for mine, other in zip(stored_weights(ours), stored_weights(theirs), strict=True):
        assert np.array_equal(mine.codes, other.codes)
        assert np.array_equal(mine.scales, other.scales)
        assert (mine.zero_points is None) == (other.zero_points is None)
        assert mine.zero_points is None or np.array_equal(mine.zero_points, other.zero_points)
    assert tables(ours) == tables(theirs)


def tables(method: CoremlMethod) -> set[tuple[str, bytes]]:
    """Float16 constants of more than a few numbers, each once."""
    arrays = [np.asarray(each.outputs[0].val) for each in method.function.operations if each.op_type == "const"]
    large = [array for array in arrays if array.dtype == np.float16 and array.size > 9]
    return {(str(array.shape), array.tobytes()) for array in large}


def operators(method: CoremlMethod) -> Counter[str]:
    return Counter(operation.op_type for operation in method.function.operations if operation.op_type != "const")


@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name: str, tmp_path: Path) -> None:
    recipe_name, options, changes = DECODERS[name]
    checkpoint = make_checkpoint(tmp_path / "c", seed=3, std=0.1, **changes)
    exported = export_coreml(checkpoint, coreml_recipe(recipe_name, **options), tmp_path / "o")
    ios = deployment_target(exported.recipe)
    rng = np.random.default_rng(0)
    for ours, theirs, signature in programs(tmp_path, exported.path, exported.store, exported.graphs, ios):
        assert_alike(ours, theirs)
        if name != "mixed":  # whose halves of one input we do not join to take them apart again
            assert operators(theirs) - operators(ours) - Counter({"cast": 9}) == ADDED
            assert operators(ours) - operators(theirs) == Counter()
        first, second = (InterpretedMethod(method, signature, {}) for method in (ours, theirs))
        for past in (0, 1, 17, CACHE_LEN - PREFILL_LEN):
            given = [values(spec, past, rng, exported.spec.vocab_size) for spec in signature.inputs()]
            for mine, other in zip(first(given), second(given), strict=True):
                assert np.array_equal(mine, other)


def values(spec: Any, past: int, rng: np.random.Generator, vocab_size: int) -> np.ndarray[Any, Any]:
    if spec.role == "tokens":
        return rng.integers(0, vocab_size, spec.shape)
    if spec.role in ("past_length", "last_index"):
        return np.array([past if spec.role == "past_length" else 5])
    return rng.standard_normal(spec.shape).astype(np.float16)


@pytest.mark.parametrize("architecture", TEXT_CLASSES)
def test_heads(architecture: str, tmp_path: Path) -> None:
    folder = make_text_model(tmp_path / "c", architecture, seed=8, std=0.1)
    exported = export_text_model(folder, text_recipe(TEXT_CLASSES[architecture]), tmp_path / "o")
    path, ios = exported.folder / exported.graph.file, deployment_target(exported.recipe)
    ((ours, theirs, signature),) = programs(tmp_path, path, exported.store, [exported.graph], ios)
    assert_alike(ours, theirs)
    first, second = (InterpretedMethod(method, signature, {}) for method in (ours, theirs))
    for ids in id_rows().values():
        ((mine,), (other,)) = first([np.array([ids])]), second([np.array([ids])])
        assert np.array_equal(mine, other)
