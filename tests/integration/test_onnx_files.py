"""What the ONNX files are made of: operators, opset, alignment, shared weights, and the store's own integers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.external_data_helper import uses_external_data

from helium_edge.quant import QuantizedWeight
from helium_edge.quant.packing import read_gather_block, read_matmul_nbits
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import Exported, export_graphs, small_recipe

LAYERS = 2
GRAPHS = ("prefill.onnx", "decode.onnx", "decoder.onnx", "genai.onnx")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("files")
    return export_graphs(make_checkpoint(root / "c", seed=1), small_recipe("onnx-int4"), root / "out")


@pytest.fixture(scope="module")
def portable(exported: Exported, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    root = tmp_path_factory.mktemp("portable")
    return export_graphs(exported.checkpoint.folder, small_recipe("onnx-int4-portable"), root / "out")


def load(exported: Exported, file: str) -> onnx.ModelProto:
    return onnx.load(exported.folder / file, load_external_data=False)


@pytest.mark.parametrize("file", GRAPHS)
def test_operators_of_the_contrib_dialect(exported: Exported, file: str) -> None:
    counts = Counter(node.op_type for node in load(exported, file).graph.node)
    assert counts["MatMulNBits"] == 5 * LAYERS + 1  # qkv, o, gate, up, down and the head
    assert counts["GroupQueryAttention"] == LAYERS
    assert counts["SkipSimplifiedLayerNormalization"] == 2 * LAYERS
    assert counts["RMSNormalization"] == counts["GatherBlockQuantized"] == 1
    assert "MatMul" not in counts


@pytest.mark.parametrize("file", GRAPHS[:3])
def test_the_portable_dialect_has_standard_operators_only(portable: Exported, file: str) -> None:
    model = load(portable, file)
    assert {node.domain for node in model.graph.node} == {""}
    assert {imported.domain for imported in model.opset_import} == {""}
    assert not (portable.folder / "genai.onnx").exists()


@pytest.mark.parametrize("file", GRAPHS)
def test_versions_are_pinned(exported: Exported, file: str) -> None:
    model = load(exported, file)
    assert model.ir_version == 11
    assert {o.domain: o.version for o in model.opset_import} == {"": 23, "com.microsoft": 1}


@pytest.mark.parametrize("file", GRAPHS)
def test_every_value_has_a_type_and_a_shape(exported: Exported, file: str) -> None:
    graph = load(exported, file).graph
    known = {info.name for info in [*graph.value_info, *graph.input, *graph.output]}
    known |= {tensor.name for tensor in graph.initializer}
    assert {name for node in graph.node for name in node.output if name} <= known


def test_static_graphs_have_no_free_dimension(exported: Exported) -> None:
    for file in GRAPHS[:2]:
        graph = load(exported, file).graph
        for value in [*graph.input, *graph.output, *graph.value_info]:
            assert all(dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim), value.name


def test_graphs_share_one_aligned_weights_file(exported: Exported) -> None:
    """Every weight of every graph lies in weights.bin, page-aligned, within the file, and at the same place."""
    size = (exported.folder / "weights.bin").stat().st_size
    places: dict[str, tuple[int, int]] = {}
    for file in GRAPHS:
        assert (exported.folder / file).stat().st_size < 40_000
        for tensor in load(exported, file).graph.initializer:
            if not uses_external_data(tensor):
                assert np.prod(tensor.dims) <= 64
                continue
            entries = {entry.key: entry.value for entry in tensor.external_data}
            offset, length = int(entries["offset"]), int(entries["length"])
            assert entries["location"] == "weights.bin"
            assert offset % 4096 == 0
            assert offset + length <= size
            assert places.setdefault(tensor.name, (offset, length)) == (offset, length)


def initializers(exported: Exported) -> dict[str, torch.Tensor]:
    model = onnx.load(exported.folder / "decode.onnx")
    return {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()) for t in model.graph.initializer}


def stored(exported: Exported, name: str) -> QuantizedWeight:
    weight = exported.store.get(name)
    assert isinstance(weight, QuantizedWeight)
    return weight


def test_the_integers_are_those_of_the_store(exported: Exported) -> None:
    """Level L0: codes and scales read back from the artifact, weight by weight."""
    tensors = initializers(exported)
    fused = {
        f"layers.{i}.qkv_proj": [f"model.layers.{i}.self_attn.{k}_proj.weight" for k in "qkv"] for i in (0, 1)
    }
    single = {
        f"layers.{i}.{kind}_proj": [f"model.layers.{i}.{part}.{kind}_proj.weight"]
        for i in (0, 1)
        for part, kind in [("self_attn", "o"), ("mlp", "gate"), ("mlp", "up"), ("mlp", "down")]
    }
    for packed, names in {**fused, **single, "lm_head": ["lm_head.weight"]}.items():
        parts = [stored(exported, name) for name in names]
        found = read_matmul_nbits(
            tensors[f"{packed}.weight"], tensors[f"{packed}.scales"], None,
            scheme=parts[0].scheme, columns=parts[0].codes.shape[1],
        )  # fmt: skip
        assert torch.equal(found.codes, torch.cat([part.codes for part in parts])), packed
        assert torch.equal(found.scales, torch.cat([part.scales for part in parts])), packed
    embedding = stored(exported, "model.embed_tokens.weight")
    found = read_gather_block(
        tensors["embedding.weight"], tensors["embedding.scales"], None,
        scheme=embedding.scheme, columns=embedding.codes.shape[1],
    )  # fmt: skip
    assert torch.equal(found.codes, embedding.codes)
    assert torch.equal(found.scales, embedding.scales)


def test_a_tied_head_shares_the_bytes_of_the_embedding(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "c", tie_word_embeddings=True, vocab_size=512)
    export_graphs(folder, small_recipe("onnx-int4"), tmp_path / "tied")
    model = onnx.load(tmp_path / "tied" / "decode.onnx", load_external_data=False)
    offsets = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}["offset"]
        for tensor in model.graph.initializer
        if tensor.name in ("embedding.weight", "lm_head.weight")
    }
    assert offsets["embedding.weight"] == offsets["lm_head.weight"]
