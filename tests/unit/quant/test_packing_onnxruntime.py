"""The layouts as ONNX Runtime reads them: kernels at accuracy_level 0 against torch on the dequantized weight."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import TensorProto

from helium_edge.quant import QuantizedWeight, dequantize
from helium_edge.quant.methods import METHODS
from helium_edge.quant.packing import (
    gather_block_weight,
    matmul_nbits_scales,
    matmul_nbits_weight,
    matmul_nbits_zero_points,
    onnx_int4_columns,
)
from helium_edge.recipe import Scheme
from tests.unit.quant.one_node import raw_tensor, run_node
from tests.unit.quant.strategies import INT4, INT4_ASYMMETRIC, INT8

TOLERANCE = 1e-5


def quantize(scheme: Scheme, rows: int, columns: int) -> QuantizedWeight:
    # Each row and each run of 32 columns has its own size and offset, so that misplaced scales show.
    sizes = (
        torch.linspace(0.5, 2, rows)[:, None]
        * torch.linspace(1, 3, -(-columns // 32)).repeat_interleave(32)[:columns]
    )
    return METHODS["mse"]((torch.randn(rows, columns) * 0.3 + 0.1) * sizes, scheme)


def assert_close(found: np.ndarray, expected: torch.Tensor) -> None:
    rms = float(expected.double().square().mean().sqrt())
    assert found.shape == tuple(expected.shape)
    assert float((torch.from_numpy(found).double() - expected.double()).abs().max()) / rms < TOLERANCE


MATMUL_CASES = [
    *((scheme, rows, scheme.group_size * 3, scheme.group_size) for scheme in INT4 for rows in (5, 8)),
    *((scheme, 5, scheme.group_size * 3, scheme.group_size) for scheme in INT4_ASYMMETRIC),
    (INT4[2], 6, 256, 32),  # a group of four blocks
    *((INT8, 7, columns, block) for columns, block in ((96, 32), (128, 128), (100, 32), (72, 64), (40, 128))),
]


@pytest.mark.parametrize(("scheme", "rows", "columns", "block"), MATMUL_CASES, ids=str)
def test_matmul_nbits(scheme: Scheme, rows: int, columns: int, block: int) -> None:
    weight = quantize(scheme, rows, columns)
    x = torch.randn(4, columns)
    attributes = {"K": columns, "N": rows, "bits": scheme.bits, "block_size": block, "accuracy_level": 0}
    inputs = [
        ("x", x.numpy()),
        ("w", matmul_nbits_weight(weight, block)),
        ("scales", matmul_nbits_scales(weight, block)),
        ("zeros", matmul_nbits_zero_points(weight, block)),
    ]
    found = run_node("MatMulNBits", inputs, attributes)
    assert_close(found, (x.double() @ dequantize(weight).double().t()).float())


@pytest.mark.parametrize(
    ("scheme", "columns", "block"),
    [
        *((scheme, 384, scheme.group_size) for scheme in INT4),
        *((scheme, 384, scheme.group_size) for scheme in INT4_ASYMMETRIC),
        (INT8, 96, 32),
        (INT8, 128, 128),
        (INT8, 100, 32),
    ],
    ids=str,
)
def test_gather_block_quantized(scheme: Scheme, columns: int, block: int) -> None:
    weight = quantize(scheme, 11, columns)
    indices = torch.tensor([[3, 10, 0, 3]])
    attributes = {"bits": scheme.bits, "block_size": block, "gather_axis": 0, "quantize_axis": 1}
    data = gather_block_weight(weight).numpy()
    inputs = [
        ("indices", indices.numpy()),
        ("data", data),
        ("scales", matmul_nbits_scales(weight, block)),
        ("zeros", matmul_nbits_zero_points(weight, block)),
    ]
    found = run_node("GatherBlockQuantized", inputs, attributes, order=(1, 0, 2, 3))
    assert_close(found, dequantize(weight)[indices])


@pytest.mark.parametrize("rows", [8, 5], ids=["even", "odd"])
@pytest.mark.parametrize("scheme", [*INT4, *INT4_ASYMMETRIC], ids=str)
def test_dequantize_linear_on_int4_columns(scheme: Scheme, rows: int) -> None:
    assert scheme.group_size is not None
    columns = scheme.group_size * 3
    weight = quantize(scheme, rows, columns)
    element = TensorProto.INT4 if scheme.symmetric else TensorProto.UINT4
    zeros = None
    if weight.zero_points is not None:
        zeros = raw_tensor(onnx_int4_columns(weight.zero_points), element, (3, rows))
    inputs = [
        ("w", raw_tensor(onnx_int4_columns(weight.codes), element, (columns, rows))),
        ("scales", weight.scales.t().contiguous()),
        ("zeros", zeros),
    ]
    attributes = {"axis": 0, "block_size": scheme.group_size}
    found = run_node("DequantizeLinear", inputs, attributes, domain="")
    assert_close(found, dequantize(weight).t())
