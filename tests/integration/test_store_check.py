"""Level L0: what is read back from a bundle is what the store holds, and a packing bug is named."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from helium_edge.errors import BundleError
from helium_edge.model.rope import reorder_interleaved_rows
from helium_edge.model.weights import layer_name
from helium_edge.parity.store_check import compare_store, readback
from helium_edge.quant import QuantizedWeight
from helium_edge.targets.artifact import Artifact, StoredCodes, WeightDifference
from tests.helpers.bundles import MODEL, Exported, bundle_recipe, export_bundle
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.faults import plant
from tests.helpers.progress import Recorder

needs_executorch = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="executorch is not installed"
)
needs_coreml = pytest.mark.skipif(
    importlib.util.find_spec("coremltools") is None,
    reason="coremltools is not installed",
)

BIASES = {"attention_bias": True, "mlp_bias": True}
SHORT = {"num_hidden_layers": 2}
ENDS = r"model\.embed_tokens\.weight|lm_head\.weight"
MIXED = [
    {"match": ENDS, "scheme": "int8"},
    {"match": r".*v_proj\.weight", "scheme": "int8"},
    {"match": r".*(down|gate)_proj\.weight", "skip": True},
    {"match": ".*", "scheme": "int4-g32"},
]
ASYMMETRIC = [{"match": ".*", "scheme": "int4-g32-asym"}]


@dataclasses.dataclass(frozen=True)
class Variant:
    recipe: str
    rules: list[dict[str, Any]] | None = None
    model: dict[str, Any] = dataclasses.field(default_factory=dict)


VARIANTS = {
    "onnx int4": Variant("onnx-int4"),
    "onnx mixed, biases": Variant("onnx-int4", MIXED, BIASES),
    "onnx asymmetric, tied": Variant("onnx-int4", ASYMMETRIC, {"tie_word_embeddings": True}),
    "onnx older, biases": Variant("web-int4", MIXED, BIASES | SHORT),
    "onnx older, asymmetric": Variant("web-int4", ASYMMETRIC, SHORT),
    "onnx fp32": Variant("onnx-fp32", None, BIASES),
    "portable int4": Variant("onnx-int4-portable"),
    "portable mixed, biases": Variant("onnx-int4-portable", MIXED, BIASES),
    "portable asymmetric": Variant("onnx-int4-portable", ASYMMETRIC),
    "xnnpack mixed, biases": Variant("xnnpack-int4", MIXED, BIASES | SHORT),
    "xnnpack int4 everywhere": Variant("xnnpack-int4", [{"match": ".*", "scheme": "int4-g32"}], SHORT),
    "coreml int4, biases": Variant("coreml-int4", None, BIASES | SHORT),
    "coreml asymmetric": Variant("coreml-int4", ASYMMETRIC, SHORT),
}

_exports: dict[str, Exported] = {}


def exported(name: str, folder: Path) -> Exported:
    """The export of a variant, made once."""
    if name not in _exports:
        variant = VARIANTS[name]
        checkpoint = make_checkpoint(folder / f"{name}.checkpoint", **MODEL | {"vocab_size": 320} | variant.model)
        changes = {} if variant.rules is None else {"rules": variant.rules}
        _exports[name] = export_bundle(checkpoint, bundle_recipe(variant.recipe, **changes), folder / name)
    return _exports[name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("l0")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=needs_executorch
            if name.startswith("xnnpack")
            else needs_coreml
            if name.startswith("coreml")
            else [],
        )
        for name in VARIANTS
    ],
)
def test_what_is_read_back_is_the_store(name: str, folder: Path) -> None:
    export = exported(name, folder)
    artifact = readback(export.open())
    progress = Recorder()
    assert compare_store(artifact, export.store, progress) == []
    assert progress.notes == [*artifact.names, *artifact.vectors]
    assert artifact.names == export.store.names
    for tensor in (artifact.names[0], layer_name(1, "mlp.up_proj.weight"), artifact.names[-1]):
        ours, theirs = artifact.get(tensor), export.store.get(tensor)
        assert type(ours) is type(theirs)
        if isinstance(ours, QuantizedWeight) and isinstance(theirs, QuantizedWeight):
            assert ours.scheme == theirs.scheme
            assert torch.equal(ours.codes, theirs.codes)
        exact = export.store.dense(tensor)
        assert float((artifact.dense(tensor) - exact).abs().max()) <= (
            0.0 if artifact.real == torch.float32 else 2**-10 * float(exact.abs().max())
        )


PACKING = {
    "swapped nibbles": (layer_name(1, "self_attn.o_proj.weight"), "codes", "nibbles swapped"),
    "transposed scales": (layer_name(1, "mlp.down_proj.weight"), "scales", "scales transposed"),
    "scale off": (layer_name(1, "self_attn.o_proj.weight"), "scales", "one scale changed, to 1.02 times itself"),
    "gain off": (
        layer_name(1, "post_attention_layernorm.weight"), "values", "one value changed, to 1.02 times itself",
    ),
}  # fmt: skip


@pytest.mark.parametrize("variant", ["onnx int4", "portable int4"])
@pytest.mark.parametrize("fault", PACKING)
def test_a_packing_fault_is_named(fault: str, variant: str, folder: Path, tmp_path: Path) -> None:
    export = exported(variant, folder)
    export = dataclasses.replace(export, folder=plant(export.folder, fault, tmp_path / "b"))
    (found,) = compare_store(readback(export.open()), export.store)
    name, kind, diagnosis = PACKING[fault]
    assert (found.name, found.layer, found.kind, found.diagnosis) == (name, 1, kind, diagnosis)
    assert 0 < found.count <= found.total
    assert str(found).startswith(f"{name}: {found.count} of {found.total} {kind} differ, by ")
    assert str(found).endswith(f"first at {list(found.first or ())}: {diagnosis}")
    assert found.first is not None


@pytest.mark.parametrize("variant", ["onnx int4", "portable int4"])
def test_gate_and_up_are_told_by_what_the_graph_does(variant: str, folder: Path, tmp_path: Path) -> None:
    export = exported(variant, folder)
    export = dataclasses.replace(export, folder=plant(export.folder, "gate and up swapped", tmp_path / "b"))
    found = {
        (difference.name, difference.kind): difference.diagnosis
        for difference in compare_store(readback(export.open()), export.store)
    }
    gate, up = layer_name(1, "mlp.gate_proj.weight"), layer_name(1, "mlp.up_proj.weight")
    assert set(found) == {(name, kind) for name in (gate, up) for kind in ("codes", "scales")}
    assert found[gate, "codes"] == f"these are the codes of {up}"
    assert found[up, "codes"] == f"these are the codes of {gate}"


@pytest.mark.parametrize("variant", ["onnx int4", "portable int4"])
def test_a_graph_that_reads_other_bytes_is_found(variant: str, folder: Path, tmp_path: Path) -> None:
    export = exported(variant, folder)
    export = dataclasses.replace(export, folder=plant(export.folder, "decode elsewhere", tmp_path / "b"))
    (found,) = compare_store(readback(export.open()), export.store)
    assert (found.name, found.kind, found.graph) == (
        layer_name(1, "self_attn.o_proj.weight"), "place", "decode.onnx",
    )  # fmt: skip


CONSTANTS = {
    "eps 1e-5": ("rms_norm_eps", 1),
    "wrong theta": ("rope.cos", None),
    "half-split rope": ("interleaved", 1),
}


@pytest.mark.parametrize("variant", ["onnx int4", "portable int4"])
@pytest.mark.parametrize("fault", CONSTANTS)
def test_a_wrong_constant_is_found_in_every_graph(fault: str, variant: str, folder: Path, tmp_path: Path) -> None:
    export = exported(variant, folder)
    export = dataclasses.replace(export, folder=plant(export.folder, fault, tmp_path / "b"))
    found = compare_store(readback(export.open()), export.store)
    name, layer = CONSTANTS[fault]
    assert {difference.kind for difference in found} == {"constant"}
    assert found[0].name.endswith(name)
    assert f"({found[0].graph}): " in str(found[0])
    assert {difference.layer for difference in found} == {layer}
    assert {difference.graph for difference in found} == {path.name for path in export.folder.glob("*.onnx")}


def changed_store(export: Exported, name: str, change: Any) -> Any:
    """The store, with one matrix changed: as if the artifact had it wrong."""

    class Changed:
        config = export.store.config

        def get(self, asked: str) -> QuantizedWeight | torch.Tensor:
            weight = export.store.get(asked)
            return change(weight) if asked == name else weight

        def vector(self, asked: str) -> torch.Tensor:
            return export.store.vector(asked)

    return Changed()


def test_the_rope_order_and_a_lost_head_are_named(folder: Path) -> None:
    export = exported("onnx int4", folder)
    artifact = readback(export.open())
    dim = export.store.config.head_dim
    query, value = layer_name(0, "self_attn.q_proj.weight"), layer_name(2, "self_attn.v_proj.weight")

    def turned(weight: QuantizedWeight) -> QuantizedWeight:
        return dataclasses.replace(weight, codes=reorder_interleaved_rows(weight.codes, dim))

    (found,) = compare_store(artifact, changed_store(export, query, turned))
    assert found.kind == "codes"
    assert "RoPE order" in found.diagnosis

    def doubled(weight: QuantizedWeight) -> QuantizedWeight:
        codes = weight.codes.clone()
        codes[dim:] = -codes[dim:]
        return dataclasses.replace(weight, codes=codes)

    (found,) = compare_store(artifact, changed_store(export, value, doubled))
    assert found.first is not None
    assert found.first[0] == dim  # the first head is as it was

    def lost(weight: QuantizedWeight) -> QuantizedWeight:
        codes = weight.codes.clone()
        codes[:dim] = codes[dim:]
        return dataclasses.replace(weight, codes=codes)

    (found,) = compare_store(changed_artifact(artifact, value, lost), export.store)
    assert found.diagnosis == "head 0 holds head 1"

    def zeroed(weight: QuantizedWeight) -> QuantizedWeight:
        codes = weight.codes.clone()
        codes[dim:] = 0
        return dataclasses.replace(weight, codes=codes)

    (found,) = compare_store(changed_artifact(artifact, value, zeroed), export.store)
    assert found.diagnosis == "head 1 zeroed"


def changed_artifact(artifact: Artifact, name: str, change: Any) -> Artifact:
    """The artifact, with the codes of one matrix changed."""

    class Changed(Artifact):
        def matrix(self, asked: str) -> StoredCodes | torch.Tensor:
            if asked != name:
                return artifact.matrix(asked)
            weight = change(artifact.get(asked))
            return StoredCodes(weight.scheme.bits, weight.codes, weight.scales)

        def vector(self, asked: str) -> torch.Tensor:
            return artifact.vector(asked)

        def differences(self) -> list[WeightDifference]:
            return []

    return Changed(artifact.config)


@needs_executorch
def test_xnnpack_differences_are_found(folder: Path) -> None:
    export = exported("xnnpack int4 everywhere", folder)
    artifact = readback(export.open())
    up = layer_name(1, "mlp.up_proj.weight")

    def scaled(weight: QuantizedWeight) -> QuantizedWeight:
        scales = weight.scales.clone()
        scales[3, 1] /= 1.5
        return dataclasses.replace(weight, scales=scales)

    (found,) = compare_store(artifact, changed_store(export, up, scaled))
    assert (found.name, found.kind, found.count, found.first) == (up, "scales", 1, (3, 1))
    assert found.diagnosis == "one scale changed, to 1.5 times itself"


def test_another_models_graph_is_refused(folder: Path, tmp_path: Path) -> None:
    export = exported("onnx int4", folder)
    copy = tmp_path / "copy"
    shutil.copytree(export.folder, copy)
    config = json.loads((copy / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}), encoding="utf-8")
    with pytest.raises(BundleError, match="7 norms; a model of 2 layers has 5"):
        readback(dataclasses.replace(export, folder=copy).open())
