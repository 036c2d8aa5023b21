"""Single quantized operators on XNNPACK against sums in integers, written here once more from the definition."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from helium_edge.errors import HeliumEdgeError
from helium_edge.quant import QuantizedWeight, dequantize
from helium_edge.recipe import Scheme

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from helium_edge.runtime.executorch_library import load_runtime
from helium_edge.runtime.quiet import quiet
from helium_edge.targets.xnnpack.lowering import _partitioner, load_exporter
from helium_edge.targets.xnnpack.operators import Int8Rows, QuantizedEmbedding, QuantizedLinear
from helium_edge.targets.xnnpack.parts import DistinctBiases

Array = npt.NDArray[Any]

SCHEMES = {
    "int4-g32": Scheme(bits=4, group_size=32),
    "int4-g64": Scheme(bits=4, group_size=64),
    "int4-g128": Scheme(bits=4, group_size=128),
    "int8": Scheme(bits=8),
}


def random_weight(scheme: Scheme, rows: int = 96, columns: int = 256, seed: int = 0) -> QuantizedWeight:
    """Every code occurs, and scales differ by a factor of ten."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (-8, 8) if scheme.bits == 4 else (-127, 128)
    codes = torch.randint(low, high, (rows, columns), generator=generator, dtype=torch.int8)
    groups = columns // (scheme.group_size or columns)
    scales = torch.rand(rows, groups, generator=generator) * 0.09 + 0.01
    return QuantizedWeight(scheme, codes, scales.bfloat16().float() if scheme.bits == 4 else scales)


def product_by_hand(x: torch.Tensor, weight: QuantizedWeight, bias: torch.Tensor | None) -> Array:
    """Activations to asymmetric int8 per token, products summed in integers group by group, in float64."""
    values = x.numpy().astype(np.float32)
    low, high = np.minimum(values.min(-1, keepdims=True), 0), np.maximum(values.max(-1, keepdims=True), 0)
    step = ((high - low) / np.float32(255)).astype(np.float32)
    zero = np.clip(np.rint(-128 - low / step), -128, 127)
    inverse = (np.float32(1) / step).astype(np.float32)
    codes = np.clip(np.rint(values * inverse) + zero, -128, 127) - zero
    rows, columns = weight.shape
    groups = weight.scales.shape[1]
    left = codes.astype(np.int64).reshape(len(values), groups, 1, columns // groups)
    right = weight.codes.numpy().astype(np.int64).reshape(rows, groups, columns // groups).transpose(1, 0, 2)
    sums = (left * right[None]).sum(-1)  # (T, G, N)
    result = (sums * weight.scales.numpy().astype(np.float64).T[None]).sum(1) * step.astype(np.float64)
    return result if bias is None else result + bias.numpy()


class Together(torch.nn.Module):
    """Several modules, each with its own input, in one program."""

    def __init__(self, modules: list[torch.nn.Module]) -> None:
        super().__init__()
        self.modules_ = torch.nn.ModuleList(modules)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(module(x) for module, x in zip(self.modules_, inputs, strict=True))


def lowered(modules: list[torch.nn.Module], inputs: list[torch.Tensor], *, delegates: int) -> Any:
    load_exporter()
    from executorch.exir import EdgeCompileConfig, to_edge_transform_and_lower

    with quiet(descriptors=False):
        program = torch.export.export(Together(modules).eval(), tuple(inputs), strict=False)
        edge = to_edge_transform_and_lower(
            program,
            partitioner=[_partitioner()],
            compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
        )
        result = edge.to_executorch()
    assert len(result.executorch_program.execution_plan[0].delegates) == delegates
    runtime = load_runtime("a test")
    with quiet():
        loaded = runtime._load_program_from_buffer(result.buffer)
        return loaded, loaded.load_method("forward")


def rms_error(found: Array, expected: Array) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.slow
def test_linear_layers_are_exact() -> None:
    generator = torch.Generator().manual_seed(1)
    weights = [random_weight(scheme, seed=seed) for seed, scheme in enumerate(SCHEMES.values())]
    bias = torch.randn(96, generator=generator)
    biases = [None, bias, None, bias]
    modules: list[torch.nn.Module] = [QuantizedLinear(w, b) for w, b in zip(weights, biases, strict=True)]
    # Tokens of very different size, all positive ones included, and one of zeros.
    inputs = [
        torch.randn(6, 256, generator=generator) * torch.tensor([1.0, 100, 0.01, 5, 1, 0])[:, None]
        for _ in weights
    ]
    for x in inputs:
        x[3].abs_()
    _, method = lowered(modules, inputs, delegates=1)
    for index, found in enumerate(method(inputs)):
        expected = product_by_hand(inputs[index][:5], weights[index], biases[index])
        assert rms_error(found[:5].numpy().astype(np.float64), expected) <= 1e-6
        for row, exact in zip(found[:5].numpy(), expected, strict=True):
            assert rms_error(row.astype(np.float64), exact) <= 1e-6
        emulated = modules[index](inputs[index])
        assert rms_error(found.numpy().astype(np.float64), emulated.numpy().astype(np.float64)) <= 1e-6
        zero = found[5] if biases[index] is None else found[5] - bias
        assert zero.abs().max() <= 1e-4 * found[0].square().mean().sqrt()


@pytest.mark.slow
def test_embeddings_are_exact() -> None:
    weights = [random_weight(scheme, seed=seed) for seed, scheme in enumerate(SCHEMES.values())]
    ids = torch.tensor([0, 95, 1, 17, 17])
    modules: list[torch.nn.Module] = [QuantizedEmbedding(weight) for weight in weights]
    _, method = lowered(modules, [ids] * len(modules), delegates=0)
    for weight, found in zip(weights, method([ids] * len(modules)), strict=True):
        assert torch.equal(found, dequantize(weight)[ids])


class Columns(torch.nn.Module):
    """What attention multiplies queries by."""

    def __init__(self, rows: Int8Rows) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.rows.read_columns(codes) * 2.0


class Numbers(Columns):
    """What attention weights are multiplied by."""

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        return self.rows.read(codes) * 2.0


@pytest.mark.slow
def test_rows_of_an_int8_cache_are_exact() -> None:
    """Half to even, clamped, by the reciprocal of the scale of the channel; codes are read as their numbers."""
    generator = torch.Generator().manual_seed(3)
    scale = torch.rand(2, 32, generator=generator) * 0.09 + 0.01
    rows = torch.randn(2, 9, 32, generator=generator) * torch.tensor([0.1, 1, 2, 5, 20, 1, 1, 1, 1])[:, None]
    rows[:, 5] = (torch.arange(32) - 16.5) * scale  # ties, as far as float32 has them
    rows[:, 6], rows[:, 7], rows[:, 8] = 1e30, -1e30, 0
    codes = torch.randint(-128, 128, (2, 40, 32), generator=generator, dtype=torch.int8)
    side = Int8Rows(scale, "key", 2)
    inputs = [rows, codes, codes]
    _, method = lowered([side, Columns(side), Numbers(side)], inputs, delegates=1)
    new, columns, numbers = method(inputs)
    exact = rows * (1 / scale)[:, None]
    assert np.array_equal(new.numpy(), np.clip(np.rint(exact.numpy()), -128, 127).astype(np.int8))
    assert {int(new[0, 6, 0]), int(new[0, 7, 0]), int(new[0, 8, 0])} == {127, -128, 0}
    assert torch.equal(columns, codes.float().transpose(1, 2) * 2)
    assert torch.equal(numbers, codes.float() * 2)


def test_zero_points_are_refused() -> None:
    """XNNPACK would drop them without a word: measured, 39 % off."""
    symmetric = random_weight(SCHEMES["int4-g32"])
    weight = QuantizedWeight(
        Scheme(bits=4, group_size=32, symmetric=False),
        symmetric.codes + 8,
        symmetric.scales,
        torch.full_like(symmetric.scales, 8, dtype=torch.int8),
    )
    with pytest.raises(HeliumEdgeError, match="XNNPACK ignores zero points"):
        QuantizedLinear(weight, None)
    with pytest.raises(HeliumEdgeError, match="XNNPACK ignores zero points"):
        QuantizedEmbedding(weight)


def test_scales_that_bfloat16_cannot_hold_are_refused() -> None:
    symmetric = random_weight(SCHEMES["int4-g32"])
    weight = QuantizedWeight(symmetric.scheme, symmetric.codes, symmetric.scales * 1.001)
    with pytest.raises(HeliumEdgeError, match="scales must be representable in bfloat16"):
        QuantizedLinear(weight, None)


def test_equal_codes_with_other_scales_get_a_bias_of_other_bytes() -> None:
    """XNNPACK's weight cache knows a weight by the bytes of codes and bias, and would confuse the two."""
    first = random_weight(SCHEMES["int4-g32"], rows=3)
    second = QuantizedWeight(first.scheme, first.codes, first.scales * 2)
    third = QuantizedWeight(first.scheme, first.codes, first.scales * 4)
    keys = DistinctBiases()
    assert keys.distinguish(first, None) is None
    assert keys.distinguish(first, None) is None  # the same weight again may well be shared
    biases = [keys.distinguish(weight, None) for weight in (second, third)]
    for bias in biases:
        assert bias is not None
        assert not bias.any()
    assert biases[0].numpy().tobytes() != biases[1].numpy().tobytes()  # type: ignore[union-attr]
    given = torch.tensor([1.0, 0.0, 2.0])
    assert keys.distinguish(first, given) is given
    changed = keys.distinguish(second, given)
    assert changed is not None
    assert torch.equal(changed, given)
    assert changed.numpy().tobytes() != given.numpy().tobytes()
