"""Single nodes of XNNPACK graphs against torch, quantized ones against sums in integers, written here again."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from helium_edge.quant import QuantizedWeight, dequantize
from helium_edge.quant.packing import embedding_4bit_weight, pack_codes
from helium_edge.recipe import Scheme

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from helium_edge.pte import xnnpack_schema as schema
from helium_edge.pte.builder import ProgramBuilder
from helium_edge.pte.xnnpack_schema import BACKEND, Datatype
from helium_edge.runtime.executorch_library import open_program
from helium_edge.runtime.quiet import quiet
from helium_edge.targets.xnnpack.graph import GraphBuilder, Matrix

Array = npt.NDArray[Any]

KINDS = {torch.float32: Datatype.FP32, torch.float16: Datatype.FP16, torch.int8: Datatype.QINT8}
SCHEMES = {
    "int4-g32": Scheme(bits=4, group_size=32),
    "int4-g64": Scheme(bits=4, group_size=64),
    "int4-g128": Scheme(bits=4, group_size=128),
    "int8": Scheme(bits=8),
}


def run(
    path: Path, inputs: Sequence[Tensor], build: Callable[[GraphBuilder, ProgramBuilder, list[int]], list[int]]
) -> list[Tensor]:
    """Outputs of a graph that `build` makes of values for the inputs."""
    program, graph = ProgramBuilder(), GraphBuilder()
    method = program.method("forward")
    values = [graph.input(method.input(x.dtype, x.shape), x.shape, KINDS[x.dtype]) for x in inputs]
    types = {kind: dtype for dtype, kind in KINDS.items()}
    for value in build(graph, program, values):
        dtype = types[Datatype(graph._values[value].tensor.datatype)]
        graph.output(value, method.output(dtype, graph.shape(value)))
    method.delegate(BACKEND, graph.finish, graph.arguments)
    program.write(path)
    return execute(path, inputs)


def execute(path: Path, inputs: Sequence[Tensor]) -> list[Tensor]:
    with quiet():
        return list(open_program(path, "a test").load_method("forward").execute(list(inputs)))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


Node = tuple[Callable[[GraphBuilder, int, int], int], Callable[[Tensor, Tensor], Tensor]]


def _seven(x: Any, y: Any) -> list[Any]:
    return [x, y, x, y, y, x, y]


NODES: dict[str, Node] = {
    "add": (lambda g, x, y: g.add(x, y), lambda x, y: x + y),
    "multiply": (lambda g, x, y: g.multiply(x, y), lambda x, y: x * y),
    "sigmoid": (lambda g, x, _: g.unary(schema.XNNSigmoid, x), lambda x, _: torch.sigmoid(x)),
    "tanh": (lambda g, x, _: g.unary(schema.XNNTanh, x), lambda x, _: torch.tanh(x)),
    "gelu": (lambda g, x, _: g.unary(schema.XNNGelu, x), lambda x, _: torch.nn.functional.gelu(x)),
    "softmax": (lambda g, x, _: g.unary(schema.XNNSoftmax, x), lambda x, _: torch.softmax(x, -1)),
    "clamp": (lambda g, x, _: g.clamp(x, -0.5, 0.7), lambda x, _: torch.clamp(x, -0.5, 0.7)),
    "relu": (lambda g, x, _: g.clamp(x, 0.0, math.inf), lambda x, _: torch.relu(x)),
    "slice": (lambda g, x, _: g.slice(x, 1, 1, 3), lambda x, _: x[:, 1:3]),
    "slice of all": (lambda g, x, y: g.add(g.slice(x, 1, 0, 5), y), lambda x, y: x + y),
    "transpose": (lambda g, x, _: g.transpose(x, [2, 0, 1]), lambda x, _: x.permute(2, 0, 1)),
    "reshape": (lambda g, x, _: g.reshape(x, [15, 4]), lambda x, _: x.reshape(15, 4)),
    "concatenate 2": (lambda g, x, y: g.concatenate([x, y], 1), lambda x, y: torch.cat([x, y], 1)),
    "concatenate 7": (lambda g, x, y: g.concatenate(_seven(x, y), 2), lambda x, y: torch.cat(_seven(x, y), 2)),
    "concatenate 26": (lambda g, x, y: g.concatenate([x, y] * 13, 0), lambda x, y: torch.cat([x, y] * 13, 0)),
    "matmul": (lambda g, x, y: g.matmul(x, g.transpose(y, [0, 2, 1])), lambda x, y: x @ y.transpose(1, 2)),
    "matmul transposed": (lambda g, x, y: g.matmul(x, y, transpose=True), lambda x, y: x @ y.transpose(1, 2)),
    "reciprocal square root": (
        lambda g, x, _: g.unary(schema.XNNReciprocalSquareRoot, g.multiply(x, x)),
        lambda x, _: 1 / x.abs(),
    ),
}


@pytest.mark.parametrize("name", NODES)
def test_nodes(name: str, tmp_path: Path) -> None:
    build, expected = NODES[name]
    x, y = random(3, 5, 4), random(3, 5, 4, seed=1)
    (found,) = run(tmp_path / "p.pte", [x, y], lambda g, _, values: [build(g, *values)])
    assert found.shape == expected(x, y).shape
    torch.testing.assert_close(found, expected(x, y), rtol=1e-5, atol=1e-6)


def test_broadcast(tmp_path: Path) -> None:
    x, row, one = random(3, 5, 4), random(5, 4, seed=1), torch.tensor([2.5])
    found = run(tmp_path / "p.pte", [x, row, one], lambda g, _, v: [g.multiply(g.add(v[1], v[0]), v[2])])
    torch.testing.assert_close(found[0], (x + row) * 2.5)


def random_weight(scheme: Scheme, rows: int = 96, columns: int = 256, seed: int = 0) -> QuantizedWeight:
    """Every code occurs, and scales differ by a factor of ten."""
    generator = torch.Generator().manual_seed(seed)
    low, high = (-8, 8) if scheme.bits == 4 else (-127, 128)
    codes = torch.randint(low, high, (rows, columns), generator=generator, dtype=torch.int8)
    groups = columns // (scheme.group_size or columns)
    scales = torch.rand(rows, groups, generator=generator) * 0.09 + 0.01
    return QuantizedWeight(scheme, codes, scales.bfloat16().float() if scheme.bits == 4 else scales)


def product_by_hand(x: Tensor, weight: QuantizedWeight, bias: Tensor | None) -> Array:
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


def rms_error(found: Array, expected: Array) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("has_bias", [False, True], ids=["plain", "bias"])
def test_products_are_exact(name: str, has_bias: bool, tmp_path: Path) -> None:
    weight, scheme = random_weight(SCHEMES[name]), SCHEMES[name]
    bias = random(96, seed=4) if has_bias else None
    # Tokens of very different size, all positive ones included, and one of zeros.
    x = random(6, 256, seed=2) * torch.tensor([1.0, 100, 0.01, 5, 1, 0])[:, None]
    x[3].abs_()

    def build(graph: GraphBuilder, program: ProgramBuilder, values: list[int]) -> list[int]:
        codes = pack_codes(weight.codes, scheme) if scheme.bits == 4 else weight.codes
        scales = weight.scales.bfloat16() if scheme.bits == 4 else weight.scales
        tensors = {"": codes, "scale_": scales} | ({} if bias is None else {"bias_": bias})
        sizes = {key: each.numel() * each.element_size() for key, each in tensors.items()}
        pieces = program.named(sizes, lambda: list(tensors.values()))
        datatype = Datatype.QBINT4 if scheme.bits == 4 else Datatype.QCINT8
        matrix = Matrix(
            (96, 256), datatype, scheme.group_size or 0, pieces[0], pieces[1], pieces[2] if has_bias else None
        )
        return [graph.linear(graph.quantize_rows(values[0]), matrix)]

    (found,) = run(tmp_path / "p.pte", [x], build)
    for row, exact in zip(found[:5].numpy(), product_by_hand(x[:5], weight, bias), strict=True):
        assert rms_error(row.astype(np.float64), exact) <= 1e-6
    zero = found[5] if bias is None else found[5] - bias
    # The kernel takes the zero point out of the sum at the end, in float32: what is left of sums of 1000 is 1e-4.
    assert zero.abs().max() <= 2e-4 * found[0].square().mean().sqrt()


@pytest.mark.parametrize("name", SCHEMES)
def test_embeddings_are_exact(name: str, tmp_path: Path) -> None:
    weight, scheme = random_weight(SCHEMES[name]), SCHEMES[name]
    codes = weight.codes if scheme.bits == 8 else embedding_4bit_weight(weight)
    scales = weight.scales.squeeze(1) if scheme.bits == 8 else weight.scales
    program, ids = ProgramBuilder(), torch.tensor([0, 95, 1, 17, 17])
    method = program.method("forward")
    tables = []
    for key, each in {"codes": codes, "scales": scales}.items():
        index = program.constant(key, each.numel() * each.element_size(), lambda each=each: each)
        tables.append(method.constant(index, each.dtype, each.shape))
    out = method.output(torch.float32, [5, 256])
    limits = (-128, 127) if scheme.bits == 8 else (-8, 7)
    args = [
        *tables,
        method.number(None),
        *(method.number(each) for each in limits),
        method.input(torch.int64, [5]),
    ]
    operator = "embedding_byte" if scheme.bits == 8 else "embedding_4bit"
    method.kernel(f"quantized_decomposed::{operator}", "out", [*args, out, out])
    program.write(tmp_path / "p.pte")
    (found,) = execute(tmp_path / "p.pte", [ids])
    assert torch.equal(found, dequantize(weight)[ids])


def test_codes_of_a_cache_are_exact(tmp_path: Path) -> None:
    """Half to even, clamped; codes are read as their numbers, cut and joined as they are."""
    rows = random(2, 9, 32, seed=3) * torch.tensor([0.1, 1, 2, 5, 200, 1, 1, 1, 1])[:, None]
    rows[:, 5] = torch.arange(32) - 16.5  # ties
    rows[:, 6], rows[:, 7], rows[:, 8] = 1e30, -1e30, 0
    codes = torch.randint(-128, 128, (2, 40, 32), generator=torch.Generator().manual_seed(5), dtype=torch.int8)

    def build(graph: GraphBuilder, _: ProgramBuilder, values: list[int]) -> list[int]:
        piece = graph.clamp(graph.widen(graph.slice(values[1], 1, 7, 20)), -128, 127)
        return [graph.to_codes(values[0]), graph.clamp(graph.widen(values[1]), -128, 127), piece]

    new, numbers, piece = run(tmp_path / "p.pte", [rows, codes], build)
    assert np.array_equal(new.numpy(), np.clip(np.rint(rows.numpy()), -128, 127).astype(np.int8))
    assert {int(new[0, 6, 0]), int(new[0, 7, 0]), int(new[0, 8, 0])} == {127, -128, 0}
    assert torch.equal(numbers, codes.float())
    assert torch.equal(piece, codes[:, 7:20].float())


def test_halves_of_a_cache_are_the_nearest(tmp_path: Path) -> None:
    """Half to even, as torch rounds; they are read as their numbers, and cut as they are."""
    rows = random(2, 9, 32, seed=3) * torch.tensor([1e-7, 1e-4, 0.1, 1, 5, 200, 1e4, 1, 1])[:, None]
    rows[:, 7] = 1 + (torch.arange(32) - 16.5) * 2.0**-10  # ties
    rows[:, 8] = 0
    cache = random(2, 40, 32, seed=4).to(torch.float16)

    def build(graph: GraphBuilder, _: ProgramBuilder, values: list[int]) -> list[int]:
        piece = graph.widen(graph.slice(values[1], 1, 7, 20))
        return [graph.to_half(values[0]), graph.widen(values[1]), piece]

    new, numbers, piece = run(tmp_path / "p.pte", [rows, cache], build)
    assert new.dtype == torch.float16
    assert torch.equal(new, rows.to(torch.float16))
    assert torch.equal(numbers, cache.float())
    assert torch.equal(piece, cache[:, 7:20].float())
