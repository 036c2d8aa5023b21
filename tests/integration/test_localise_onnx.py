"""Localisation names the layer and the operation of a fault in an ONNX bundle, and nothing in a clean one."""

from __future__ import annotations

from pathlib import Path

import pytest

from helium_edge.errors import UsageError
from helium_edge.parity.layer_table import OPERATIONS, TOLERANCE, LayerTable
from helium_edge.parity.localise import localise
from tests.helpers.bundles import MODEL, Exported, bundle_recipe, export_bundle
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens
from tests.helpers.faults import plant
from tests.helpers.progress import Recorder

TOKENS = random_tokens(30, 320)
VARIANTS = {
    "contrib": "onnx-int4", "portable": "onnx-int4-portable", "contrib int8": "onnx-int8", "fp32": "onnx-fp32",
}  # fmt: skip

_exports: dict[str, Exported] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("localise")


def exported(name: str, folder: Path) -> Exported:
    """The export of a variant, made once."""
    if name not in _exports:
        checkpoint = make_checkpoint(folder / f"{name}.checkpoint", **MODEL, vocab_size=320)
        _exports[name] = export_bundle(checkpoint, bundle_recipe(VARIANTS[name]), folder / name)
    return _exports[name]


def table(export: Exported, *, static: bool) -> LayerTable:
    return localise(export.open(), export.store, TOKENS, static=static)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_clean_bundle_has_nothing_guilty(variant: str, static: bool, folder: Path) -> None:
    export = exported(variant, folder)
    progress = Recorder()
    found = localise(export.open(), export.store, TOKENS, static=static, progress=progress)
    assert found.guilty is None
    assert found.exact
    layers = export.store.config.num_hidden_layers
    assert len(found.rows) == 2 * (3 + 13 * layers)
    assert {row.op for row in found.rows} == set(OPERATIONS)
    # A tenth of the tolerance: what is allowed is not what is usual.
    assert max(row.own.typical for row in found.rows) <= TOLERANCE / 10
    files = {row.phase: row.graph for row in found.rows}
    assert files == (
        {"prefill": "prefill.onnx", "decode": "decode.onnx"} if static else dict.fromkeys(files, "decoder.onnx")
    )
    assert progress.stages == [("localise", layers + 2, "parts")]
    assert progress.notes == ["embedding", *(f"layer {index}" for index in range(layers)), "logits"]
    rounds = {row.op for row in found.rows if row.rounds}
    assert ("o_proj" in rounds) is (variant != "fp32")


FAULTS = {
    "swapped nibbles": (1, "o_proj"),
    "transposed scales": (1, "down_proj"),
    "scale off": (1, "o_proj"),
    "gate and up swapped": (1, "gate_proj"),
    "half-split rope": (1, "key"),
    "half-split rope everywhere": (0, "key"),
    "wrong theta": (0, "key"),
    "eps 1e-5": (0, "input_layernorm"),  # where activations are small, and eps is not
    "head dropped": (1, "attention"),
    "last index off": (None, "lm_head"),
}


@pytest.mark.parametrize("variant", ["contrib", "portable"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, variant: str, folder: Path, tmp_path: Path) -> None:
    export = exported(variant, folder)
    layer = 0 if fault == "eps 1e-5" else 1
    planted = Exported(plant(export.folder, fault, tmp_path / "b", layer=layer), export.store)
    assert table(planted, static=False).guilty == FAULTS[fault]


@pytest.mark.parametrize(
    ("variant", "fault", "place"),
    [
        ("contrib", "slot off", (1, "key")),
        ("portable", "mask one long", (0, "attention")),
        ("portable", "padding leaks", (0, "attention")),
    ],
)
def test_a_fault_of_a_dialect_is_named(
    variant: str, fault: str, place: tuple[int, str], folder: Path, tmp_path: Path
) -> None:
    export = exported(variant, folder)
    planted = Exported(plant(export.folder, fault, tmp_path / "b"), export.store)
    assert table(planted, static=True).guilty == place


def test_a_fault_of_one_graph_is_told_from_the_other(folder: Path, tmp_path: Path) -> None:
    export = exported("contrib", folder)
    planted = Exported(plant(export.folder, "decode elsewhere", tmp_path / "b"), export.store)
    assert table(planted, static=False).guilty is None
    first = table(planted, static=True).first
    assert first is not None
    assert (first.phase, first.graph, first.layer, first.op) == ("decode", "decode.onnx", 1, "o_proj")


def test_errors_travel_in_the_accumulated_column_only(folder: Path, tmp_path: Path) -> None:
    export = exported("contrib", folder)
    planted = Exported(plant(export.folder, "swapped nibbles", tmp_path / "b"), export.store)
    rows = table(planted, static=False).rows
    assert [(row.layer, row.op) for row in rows if row.guilty] == [(1, "o_proj")] * 2
    last = [row for row in rows if row.op == "lm_head"]
    assert all(row.own.relative <= TOLERANCE and row.accumulated.relative > 0.1 for row in last)
    (row, _) = [row for row in rows if row.guilty]
    assert row.own.snr < 10
    assert TOKENS[row.own.position]


def test_too_few_tokens(folder: Path) -> None:
    export = exported("contrib", folder)
    with pytest.raises(UsageError, match="4 tokens are too few to localise with; 5 are needed"):
        localise(export.open(), export.store, TOKENS[:4])
    assert localise(export.open(), export.store, TOKENS[:5]).guilty is None
