"""Localisation and level L0 name the layer and the operation of a fault in an XNNPACK bundle."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from helium_edge.model.weights import layer_name
from helium_edge.parity.layer_table import OPERATIONS, TOLERANCE
from helium_edge.parity.localise import localise
from helium_edge.parity.store_check import compare_store, readback
from tests.helpers.bundles import MODEL, Exported, bundle_recipe, export_bundle
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens
from tests.helpers.faults import plant
from tests.helpers.xnnpack import pieces_of

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

TOKENS = random_tokens(30, 320)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("xnnpack")
    checkpoint = make_checkpoint(folder / "checkpoint", **MODEL | {"num_hidden_layers": 2}, vocab_size=320)
    with pieces_of(7, 64):
        return export_bundle(checkpoint, bundle_recipe("xnnpack-int4"), folder / "bundle")


def test_a_clean_bundle_has_nothing_guilty(export: Exported) -> None:
    found = localise(export.open(), export.store, TOKENS)
    assert found.guilty is None
    assert {row.op for row in found.rows} == set(OPERATIONS)
    assert {row.graph for row in found.rows} == {"prefill", "decode"}
    assert max(row.own.typical for row in found.rows) <= TOLERANCE / 10
    assert max(row.accumulated.relative for row in found.rows) <= 0.057  # test_xnnpack_quantized.py


def test_mixed_schemes_biases_and_all_logits(tmp_path: Path) -> None:
    """Several products side by side, in float32 and in int8; no choice of the last token."""
    model = MODEL | {"num_hidden_layers": 1, "attention_bias": True, "mlp_bias": True, "vocab_size": 320}
    rules = [
        {"match": r"model\.embed_tokens\.weight|lm_head\.weight", "scheme": "int8"},
        {"match": r".*v_proj\.weight", "scheme": "int8"},
        {"match": r".*(down|gate)_proj\.weight", "skip": True},
        {"match": ".*", "scheme": "int4-g32"},
    ]
    recipe = bundle_recipe("xnnpack-int4", rules=rules, logits="all")
    mixed = export_bundle(make_checkpoint(tmp_path / "c", **model), recipe, tmp_path / "b")
    found = localise(mixed.open(), mixed.store, TOKENS)
    assert found.guilty is None
    assert {row.op for row in found.rows if row.rounds} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "lm_head",
    }  # fmt: skip


FAULTS = {
    "swapped nibbles": (1, "o_proj"),
    "transposed scales": (1, "down_proj"),
    "scale off": (1, "o_proj"),
    "half-split rope": (1, "q_proj"),
    "head dropped": (1, "v_proj"),
    "gate and up swapped": (1, "gate_proj"),
    "eps 1e-5": (0, "input_layernorm"),
    "wrong theta": (0, "key"),
    "mask one long": (0, "attention"),
    "position off": (0, "key"),
    "last index off": (None, "norm"),
    "decode elsewhere": (1, "o_proj"),
}
STORE = {
    "swapped nibbles": (layer_name(1, "self_attn.o_proj.weight"), "nibbles swapped"),
    "transposed scales": (layer_name(1, "mlp.down_proj.weight"), "scales transposed"),
    "scale off": (layer_name(1, "self_attn.o_proj.weight"), "one scale changed"),
    "half-split rope": (layer_name(1, "self_attn.q_proj.weight"), "the other RoPE order"),
    "head dropped": (layer_name(1, "self_attn.v_proj.weight"), "head 1 zeroed"),
    "gate and up swapped": (layer_name(1, "mlp.gate_proj.weight"), layer_name(1, "mlp.up_proj.weight")),
    "eps 1e-5": ("rms_norm_eps", "1e-05"),
    "wrong theta": ("rope.cos", "not the table"),
    "decode elsewhere": (layer_name(1, "self_attn.o_proj.weight"), "other data than in"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, export: Exported, tmp_path: Path) -> None:
    layer = 0 if fault == "eps 1e-5" else 1
    planted = Exported(plant(export.folder, fault, tmp_path / "b", layer=layer), export.store)
    differences = compare_store(readback(planted.open()), export.store)
    if fault in STORE:
        name, said = STORE[fault]
        assert differences[0].name == name
        assert said in differences[0].diagnosis
    else:
        assert differences == []  # a fault of the graph, not of the weights
    found = localise(planted.open(), export.store, TOKENS)
    assert found.guilty == FAULTS[fault]
    if fault == "decode elsewhere":
        assert {row.phase for row in found.rows if row.guilty} == {"decode"}
