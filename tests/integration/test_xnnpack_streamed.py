"""Programs whose weights are written as a stream: the bytes of those lowered whole, and no weight in memory."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from helium_edge.checkpoint import open_checkpoint
from helium_edge.errors import HeliumEdgeError
from helium_edge.quant import QuantizedStore, QuantizedWeight
from helium_edge.recipe import Scheme
from tests.helpers.checkpoints import make_checkpoint

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from helium_edge.targets.xnnpack.graph import build_stack
from helium_edge.targets.xnnpack.lowering import load_exporter
from helium_edge.targets.xnnpack.parts import StoreParts
from helium_edge.targets.xnnpack.target import XnnpackTarget
from tests.helpers.xnnpack import export_xnnpack, xnnpack_recipe

load_exporter()  # quietly, before what imports it

from helium_edge.targets.xnnpack.streamed import StreamedParts, StreamedWeight, streaming  # noqa: E402

# int4 in groups, int8 by channel and float32, side by side and stacked; biases.
MIXED: list[dict[str, Any]] = [
    {"match": r".*(embed_tokens|lm_head|score|v_proj)\.weight", "scheme": "int8"},
    {"match": r".*(down|gate)_proj\.weight", "skip": True},
    {"match": ".*", "scheme": "int4-g32"},
]


HEAD = {"architectures": ["HeliumForSequenceClassification"], "id2label": {"0": "calm", "1": "warm"}}


def built(checkpoint: Path, folder: Path, kv_cache: str) -> bytes:
    """The program of a checkpoint, quantized as `MIXED` says."""
    source = open_checkpoint(str(checkpoint))
    if source.config.head == "language_model":
        return export_xnnpack(
            checkpoint, xnnpack_recipe("xnnpack-int4", rules=MIXED, kv_cache=kv_cache), folder
        ).path.read_bytes()
    folder.mkdir()
    recipe = xnnpack_recipe("xnnpack-int4", rules=MIXED)
    store = QuantizedStore(source, recipe.quantization, folder / "store")
    (file,) = {graph.file for graph in XnnpackTarget().build(store, recipe, folder, lambda _: None)}
    return (folder / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kv_cache"),
    [({"attention_bias": True, "mlp_bias": True}, "float32"), ({}, "int8"), (HEAD, "float32")],
    ids=["decoder", "int8 cache", "head"],
)
def test_streamed_program_is_the_one_lowered_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: dict[str, Any], kv_cache: str
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", **model)
    streamed = built(checkpoint, tmp_path / "streamed", kv_cache)
    monkeypatch.setattr(StreamedParts, "_made", StoreParts._made)
    assert built(checkpoint, tmp_path / "whole", kv_cache) == streamed


def test_stand_ins_take_no_memory(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint")
    recipe = xnnpack_recipe("xnnpack-int4", rules=MIXED)
    source = open_checkpoint(str(checkpoint))
    store = QuantizedStore(source, recipe.quantization, tmp_path / "store")
    stack = build_stack(source.config, StreamedParts(store, lambda _: None))
    held = {name: tensor.untyped_storage().nbytes() for name, tensor in stack.named_buffers()}
    matrices = {name for name in held if name.endswith((".codes", ".scales", ".zeros", ".weight"))}
    assert len(matrices) > 20
    assert {name for name in matrices if held[name] > 4} == {"embedding.codes", "embedding.scales"}


def random_matrix(seed: int) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(-8, 8, (4, 64), generator=generator, dtype=torch.int8)
    return QuantizedWeight(Scheme(bits=4, group_size=32), codes, torch.ones(4, 2))


def test_data_that_changed_meanwhile_is_not_written(tmp_path: Path) -> None:
    matrix = random_matrix(0)
    weight = StreamedWeight(lambda: random_matrix(1), matrix, matrix.codes)
    with (tmp_path / "file").open("wb") as file, pytest.raises(HeliumEdgeError, match="changed"):
        weight.codes.write_to_file(file)


def test_data_can_be_read_in_any_order() -> None:
    matrix = random_matrix(0)
    loads = []

    def load() -> QuantizedWeight:
        loads.append(1)
        return matrix

    weight = StreamedWeight(load, matrix, matrix.codes)
    assert weight.scales is not None
    codes, scales = weight.codes.to_bytes(), weight.scales.to_bytes()
    assert len(loads) == 1
    assert (len(codes), len(scales)) == (len(weight.codes), len(weight.scales)) == (128, 16)
    assert (weight.scales.to_bytes(), weight.codes.to_bytes()) == (scales, codes)
    assert [weight.codes.prefix(size) for size in (32, 100)] == [codes[:32], codes[:100]]


def test_a_weight_that_is_not_lowered_is_found() -> None:
    matrix = random_matrix(0)
    weight = StreamedWeight(lambda: matrix, matrix, matrix.codes)
    module = torch.nn.Module()
    module.register_buffer("codes", weight.stand_in)
    with pytest.raises(HeliumEdgeError, match="without the weight codes"), streaming([weight], [module]):
        pass
    with pytest.raises(HeliumEdgeError, match="in no module"), streaming([weight], []):
        pass
