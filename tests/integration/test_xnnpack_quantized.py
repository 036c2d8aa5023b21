"""Quantized programs for XNNPACK: the store's integers, the quantized kernels, one delegate, the right numbers.

Tolerances. Torch emulates the kernels exactly, activations included, so that what remains is float32 noise of less
than 1e-6 - until an activation lies so near the middle between two codes that the noise rounds it the other way.
A step is about 8 rms / 255, so noise of 1e-6 rms does that to 3e-5 of all activations: of the 1500 of a token, in
one token of twenty. Such a flip moves a product of K = 128 activations by 8 / 255 / sqrt(128) = 0.3 % of its rms,
which flips a tenth of the activations after it, and so on: that token, and later ones through its cache rows, end
as far off as two roundings of the same numbers are. One rounding costs a product 8 / 255 / sqrt(12) = 0.9 %, nine
products in a row 2.7 %, and two such roundings differ by sqrt(2) times that, 3.8 %. So over one and the same cache
most tokens must agree to float32 noise, and none may be further off than 3.8 %, and than 2.7 % from unquantized
activations; outliers widen the steps, for which half as much again, and twice as much, are allowed.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helium_edge.errors import BundleError
from helium_edge.model.weights import EMBEDDING, layer_name
from helium_edge.quant import QuantizedStore, QuantizedWeight
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from helium_edge.runtime.executorch_library import open_program
from helium_edge.runtime.xnnpack_program import StoredWeight, XnnpackMethod
from tests.helpers.xnnpack import OUTSIDE, XnnpackExport, export_xnnpack, rms_error, xnnpack_recipe

CHUNKS, STEPS = [8, 8, 5], 16
NOISE, FLIPPED, ACTIVATIONS = 2e-6, 0.057, 0.054
# std 0.1 is near 1/sqrt(hidden_size): the attention is not saturated, so that rounding is not amplified.
MODEL: dict[str, Any] = {"seed": 5, "std": 0.1, "hidden_size": 128, "head_dim": 32, "intermediate_size": 192}
ENDS = r"model\.embed_tokens\.weight|lm_head\.weight"


def rules(scheme: str, **more: str | None) -> list[dict[str, Any]]:
    """Rules that give some weights another scheme than the rest, None to skip them."""
    pairs = [*more.items(), (".*", scheme)]
    return [
        {"match": match, "skip": True} if other is None else {"match": match, "scheme": other}
        for match, other in pairs
    ]


@dataclasses.dataclass(frozen=True)
class Variant:
    """Rules, a model, and the products of one method by kernel, norms aside: two layers of four, and the head."""

    recipe: str
    kernels: dict[str, int]
    rules: list[dict[str, Any]] | None = None
    model: dict[str, Any] = dataclasses.field(default_factory=dict)


VARIANTS = {
    "int4": Variant("xnnpack-int4", {"qd8-f32-qb4w": 8, "qd8-f32-qc8w": 1}),
    "int8, biases": Variant(
        "xnnpack-int8", {"qd8-f32-qc8w": 9}, model={"attention_bias": True, "mlp_bias": True}
    ),
    "int4 everywhere, g64": Variant(
        "xnnpack-int4", {"qd8-f32-qb4w": 9}, rules("int4-g32", **{ENDS: "int4-g64"}), {"tie_word_embeddings": True}
    ),
    # q and k together, v apart; gate and up apart.
    "mixed": Variant(
        "xnnpack-int4",
        {"qd8-f32-qb4w": 6, "qd8-f32-qc8w": 3, "f32": 4},
        rules("int4-g32", **{ENDS: "int8", r".*v_proj\.weight": "int8", r".*(down|gate)_proj\.weight": None}),
    ),
}  # fmt: skip

_exports: dict[str, XnnpackExport] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("xnnpack")


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def exported(variant: str, folder: Path) -> XnnpackExport:
    return export(variant, folder)


def export(variant: str, folder: Path) -> XnnpackExport:
    """The export of a variant, lowered once for all tests."""
    if variant not in _exports:
        found = VARIANTS[variant]
        checkpoint = make_checkpoint(folder / f"{variant}.checkpoint", **MODEL | found.model)
        changes = {} if found.rules is None else {"rules": found.rules}
        _exports[variant] = export_xnnpack(checkpoint, xnnpack_recipe(found.recipe, **changes), folder / variant)
    return _exports[variant]


def test_one_delegate_and_quantized_kernels(exported: XnnpackExport, variant: str) -> None:
    methods = exported.program().methods
    assert set(methods) == {"prefill", "decode"}
    for method in methods.values():
        assert method.delegates == 1
        assert set(method.operators) <= OUTSIDE
        # A norm is a product with one row.
        kernels = Counter(product.kernel for product in method.products if product.shape[0] > 1)
        assert kernels == VARIANTS[variant].kernels
        quantized = sum(count for kernel, count in kernels.items() if kernel.startswith("qd8"))
        # One quantization of activations for products of one input that are of one scheme; mixed: q-k and v share.
        assert method.nodes["XNNConvert"] == quantized


def test_the_integers_are_those_of_the_store(exported: XnnpackExport) -> None:
    for method in exported.program().methods.values():
        assert differing_weights(method, exported.store) == []


def differing_weights(method: XnnpackMethod, store: QuantizedStore) -> list[str]:
    """Names of quantized matrices whose codes or scales in the file are not bit for bit those of the store."""
    names = [name for name in store.names if name != EMBEDDING and isinstance(store.get(name), QuantizedWeight)]
    stored = [product.weight for product in method.products if product.weight is not None]
    found: dict[str, StoredWeight | None] = {EMBEDDING: method.embedding}
    for weight in stored:
        done = 0
        while done < weight.codes.shape[0]:
            name = names.pop(0)
            rows = slice(done, done + store.get(name).shape[0])
            found[name] = StoredWeight(weight.codes[rows], weight.scales[rows])
            done = rows.stop
    assert names == []
    return [name for name, weight in found.items() if weight is None or not same(weight, store.get(name))]


def same(found: StoredWeight, expected: QuantizedWeight | torch.Tensor) -> bool:
    assert isinstance(expected, QuantizedWeight)
    return torch.equal(found.codes, expected.codes) and torch.equal(found.scales, expected.scales)


def test_a_changed_code_is_found(folder: Path) -> None:
    """The comparison itself: a store whose codes differ in one place is another store."""
    exported = export("int4", folder)
    method = exported.program().methods["decode"]
    name = layer_name(1, "mlp.up_proj.weight")
    real = exported.store.get

    def get(asked: str) -> QuantizedWeight | torch.Tensor:
        weight = real(asked)
        if asked != name or not isinstance(weight, QuantizedWeight):
            return weight
        codes = weight.codes.clone()
        codes[3, 5] ^= 1
        return dataclasses.replace(weight, codes=codes)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exported.store, "get", get)
        assert differing_weights(method, exported.store) == [name]


def test_agrees_with_torch(exported: XnnpackExport) -> None:
    """Every call over the cache that the runner itself has written, so that nothing adds up."""
    runner = exported.runner()
    tokens = random_tokens(sum(CHUNKS) + STEPS, exported.spec.vocab_size)
    emulated, dense = exported.decoder(emulated=True), exported.decoder(emulated=False)
    exact, rounded, done = [], [], 0
    for length in [*CHUNKS, *[1] * STEPS]:
        chunk = tokens[done : done + length]
        inputs = torch.tensor([chunk]), torch.tensor([done]), [torch.tensor(a) for a in runner.cache_buffers]
        found = runner.prefill(chunk)[-1] if length > 1 else runner.decode(chunk[0])
        done += length
        with torch.no_grad():
            exact.append(rms_error(found, emulated(*inputs)[0][0, -1].numpy()))
            rounded.append(rms_error(found, dense(*inputs)[0][0, -1].numpy()))
    assert np.mean(np.array(exact) <= NOISE) >= 0.6
    assert max(exact) <= FLIPPED
    # Above the noise, since activations are quantized indeed.
    assert min(rounded) > 1e-3
    assert max(rounded) <= ACTIVATIONS


def test_weights_stand_once_in_the_file(exported: XnnpackExport) -> None:
    program = exported.program()
    graphs = sum(method.delegate_bytes for method in program.methods.values())
    size = exported.path.stat().st_size
    assert program.weight_bytes < size - graphs
    assert exported.planned_bytes == size


def test_a_further_method_is_nearly_free(folder: Path) -> None:
    """With layers that weigh more than their graph, although a hundredth of real ones."""
    model = MODEL | {"hidden_size": 512, "head_dim": 64, "num_attention_heads": 8, "intermediate_size": 2048}
    checkpoint = make_checkpoint(
        folder / "large.checkpoint", **model | {"vocab_size": 2000, "num_hidden_layers": 1}
    )
    sizes = []
    for buckets in ([], [24]):
        recipe = xnnpack_recipe("xnnpack-int4", xnnpack={"cache_buckets": buckets})
        exported = export_xnnpack(checkpoint, recipe, folder / f"large-{len(buckets)}")
        assert len(exported.graphs) == 2 + len(buckets)
        sizes.append(exported.path.stat().st_size)
    assert 0 < sizes[1] - sizes[0] < 0.02 * sizes[0]


def test_metadata(exported: XnnpackExport) -> None:
    program = open_program(exported.path, "a test")
    config = exported.checkpoint.config
    expected = {
        "get_vocab_size": config.vocab_size, "get_bos_id": 1, "get_max_seq_len": 8, "get_max_context_len": 48,
        "use_kv_cache": True, "use_sdpa_with_kv_cache": False, "enable_dynamic_shape": False,
        "helium_edge_contract": 2, "helium_edge_layers": 2, "helium_edge_logits_all": False,
    }  # fmt: skip
    assert {name: program.load_method(name).execute([])[0] for name in expected} == expected
    assert program.load_method("get_eos_ids").execute([]) == list(config.eos_token_ids)
    assert exported.program().constants["get_vocab_size"] == (config.vocab_size,)
    meta = program.metadata("prefill")
    assert not any(meta.input_tensor_meta(index).is_memory_planned() for index in range(meta.num_inputs()))
    # Java's and Swift's `execute` give outputs no memory: without their own the first call ends the process.
    assert all(meta.output_tensor_meta(index).is_memory_planned() for index in range(meta.num_outputs()))


def test_the_same_export_gives_the_same_bytes(folder: Path) -> None:
    first = export("int4", folder)
    again = export_xnnpack(first.checkpoint.folder, first.recipe, folder / "again")
    assert again.path.read_bytes() == first.path.read_bytes()


def test_a_damaged_program_is_a_bundle_error(folder: Path) -> None:
    first = export("int4", folder)
    broken = folder / "broken.pte"
    for data in (b"", b"not a program", first.path.read_bytes()[:4000]):
        broken.write_bytes(data)
        with pytest.raises(BundleError, match=r"broken\.pte: "):
            dataclasses.replace(first, path=broken).runner()
        with pytest.raises(BundleError, match=r"broken\.pte: "):
            dataclasses.replace(first, path=broken).program()
