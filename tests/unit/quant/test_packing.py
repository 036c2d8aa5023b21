from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helium_edge.quant import QuantizedWeight
from helium_edge.quant.methods import METHODS
from helium_edge.quant.packing import (
    gather_block_weight,
    int4_rows,
    matmul_nbits_scales,
    matmul_nbits_weight,
    matmul_nbits_zero_points,
    onnx_int4_columns,
    pack_codes,
    pack_nibbles,
    read_gather_block,
    read_int4_rows,
    read_matmul_nbits,
    read_onnx_int4_columns,
    unpack_codes,
    unpack_nibbles,
)
from helium_edge.recipe import Scheme
from tests.unit.quant import plain
from tests.unit.quant.strategies import INT4, INT4_ASYMMETRIC, INT8, unhurried

G32, A32 = INT4[0], INT4_ASYMMETRIC[0]


@st.composite
def quantized_weights(draw: st.DrawFn) -> QuantizedWeight:
    """Every code of the range, random scales and zero points; K of int8 is of any size."""
    scheme = draw(st.sampled_from([*INT4, *INT4_ASYMMETRIC, INT8, INT8, INT8]))
    rows = draw(st.integers(1, 9))
    columns = (
        draw(st.integers(1, 200)) if scheme.group_size is None else scheme.group_size * draw(st.integers(1, 5))
    )
    groups = 1 if scheme.group_size is None else columns // scheme.group_size
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    low, high = {(8, True): (-127, 127), (4, True): (-8, 7), (4, False): (0, 15)}[scheme.bits, scheme.symmetric]

    def integers(low: int, high: int, columns: int) -> torch.Tensor:
        return torch.randint(low, high + 1, (rows, columns), generator=generator, dtype=torch.int8)

    zeros = None if scheme.symmetric else integers(0, 15, groups)
    scales = torch.rand(rows, groups, generator=generator) + 0.01
    return QuantizedWeight(scheme, integers(low, high, columns), scales, zeros)


def assert_same(found: QuantizedWeight, expected: QuantizedWeight) -> None:
    assert torch.equal(found.codes, expected.codes)
    assert torch.equal(found.scales, expected.scales)
    assert (found.zero_points is None) == (expected.zero_points is None)
    if found.zero_points is not None and expected.zero_points is not None:
        assert torch.equal(found.zero_points, expected.zero_points)


@unhurried(100)
@given(values=st.lists(st.integers(0, 15), min_size=1, max_size=50))
def test_nibbles_return(values: list[int]) -> None:
    packed = pack_nibbles(torch.tensor(values, dtype=torch.uint8))
    padded = [*values, 0] if len(values) % 2 else values
    assert bytes(packed.tolist()).hex() == plain.nibbles(padded)
    assert unpack_nibbles(packed, len(values)).tolist() == values
    with pytest.raises(ValueError, match="nibbles take"):
        unpack_nibbles(packed, len(values) + 2)


@unhurried(100)
@given(weight=quantized_weights())
def test_codes_return(weight: QuantizedWeight) -> None:
    packed = pack_codes(weight.codes, weight.scheme)
    assert packed.dtype == torch.uint8
    assert packed.shape[1] * 8 == weight.shape[1] * weight.scheme.bits
    assert torch.equal(unpack_codes(packed, weight.scheme, weight.shape[1]), weight.codes)
    with pytest.raises(ValueError, match="take"):
        unpack_codes(packed[:, 1:], weight.scheme, weight.shape[1])


@unhurried(100)
@given(weight=quantized_weights(), block=st.sampled_from([16, 32, 64, 128]))
def test_matmul_nbits_returns(weight: QuantizedWeight, block: int) -> None:
    rows, columns = weight.shape
    if weight.scheme.group_size is not None and weight.scheme.group_size % block:
        with pytest.raises(ValueError, match="do not divide a group"):
            matmul_nbits_weight(weight, block)
        return
    data, scales = matmul_nbits_weight(weight, block), matmul_nbits_scales(weight, block)
    zeros = matmul_nbits_zero_points(weight, block)
    blocks = -(-columns // block)
    assert data.shape == (rows, blocks, block * weight.scheme.bits // 8)
    assert scales.shape == (rows, blocks)
    assert scales.dtype == torch.float32
    assert (zeros is None) == weight.scheme.symmetric
    if zeros is not None:
        assert zeros.shape == (rows, -(-blocks // 2))
    if columns % block:
        assert bool((data[:, -1, columns % block :] == 0x80).all())
    assert_same(read_matmul_nbits(data, scales, zeros, scheme=weight.scheme, columns=columns), weight)


@unhurried(100)
@given(weight=quantized_weights())
def test_gather_block_returns(weight: QuantizedWeight) -> None:
    data = gather_block_weight(weight)
    block = weight.scheme.group_size or 32
    scales, zeros = matmul_nbits_scales(weight, block), matmul_nbits_zero_points(weight, block)
    assert_same(read_gather_block(data, scales, zeros, scheme=weight.scheme, columns=weight.shape[1]), weight)
    if weight.shape[1] % block == 0:  # the same bytes as MatMulNBits: a tied head can share them
        assert torch.equal(data, matmul_nbits_weight(weight, block).flatten(1))


@unhurried(100)
@given(weight=quantized_weights().filter(lambda w: w.scheme.bits == 4))
def test_onnx_columns_return(weight: QuantizedWeight) -> None:
    rows, columns = weight.shape
    data = onnx_int4_columns(weight.codes)
    assert data.shape == (-(-rows * columns // 2),)
    signed = weight.scheme.symmetric
    assert torch.equal(read_onnx_int4_columns(data, rows=rows, columns=columns, signed=signed), weight.codes)


def test_onnx_columns_with_an_odd_count_end_in_a_zero_nibble() -> None:
    codes = torch.tensor([[-8, -1, 3], [7, 5, -2], [0, 1, 2]], dtype=torch.int8)
    # Transposed: -8 7 0 | -1 5 1 | 3 -2 2, rows running on across bytes.
    assert onnx_int4_columns(codes).tolist() == [0x78, 0xF0, 0x15, 0xE3, 0x02]


@given(st.lists(st.integers(-8, 7), min_size=1, max_size=40))
def test_int4_rows_round_trip(values: list[int]) -> None:
    codes = torch.tensor(values, dtype=torch.int8)
    assert read_int4_rows(int4_rows(codes), len(values)).tolist() == values


def test_int4_rows_byte_by_byte() -> None:
    """Row by row; two's complement, the even index in the low nibble, and 0 after the last of an odd count."""
    codes = torch.tensor([[-8, 7, 0], [-1, 5, 1], [3, -2, 2]], dtype=torch.int8)
    assert int4_rows(codes).tolist() == [0x78, 0xF0, 0x15, 0xE3, 0x02]


def test_zero_points_of_odd_block_counts() -> None:
    zeros = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.int8)
    weight = QuantizedWeight(A32, torch.zeros(2, 96, dtype=torch.int8), torch.ones(2, 3), zeros)
    packed = matmul_nbits_zero_points(weight, 32)
    assert packed is not None
    assert packed.tolist() == [[0x21, 0x03], [0x54, 0x06]]


def test_blocks_of_one_group_that_differ_are_refused() -> None:
    weight = METHODS["rtn"](torch.randn(3, 96), INT8)
    data, scales = matmul_nbits_weight(weight, 32), matmul_nbits_scales(weight, 32)
    scales[1, 2] *= 2
    with pytest.raises(ValueError, match="differ"):
        read_matmul_nbits(data, scales, None, scheme=INT8, columns=96)
    with pytest.raises(ValueError, match="cannot carry"):
        read_matmul_nbits(data, scales[:, :2], None, scheme=Scheme(bits=4, group_size=32), columns=192)


# plain.golden_weight() quantized by plain.py, row by row; the tests below derive nothing from the package.
INT4_CODES = [
    "51d9731b953ec751e9731ca53ec751ea731ca53fc851fa831ca53fd861fa831d",
    "a64fd861fa841db64fd862fb842db64fd962fb942db74fd972fb953db75fd973",
    "1b953db751e9731c953ec751ea731ca53ec751fa831ca53fc851fa831da63fd8",
    "61fa841da64fd861fb842db64fd862fb88888888888888888888888888888888",
]
INT4_SCALES = "0000093d0000fc3c0000803d0000893d0000093e0000fc3d0000803e00008000"
INT4_COLUMNS = (
    "e9932de9712dc5710bc55f0b935fe9932de9712dc6710bc65f0b945fe9943de9"
    "713dc6710bc65f0ba45fe9a43de9723dc6720bc65f0ba45fe9a43de9723dc672"
    "1b065f0ba40fe9043d09720dc7021b07500ba400f9043d09720dc7021b07500b"
    "a400f9043d09720dd7021b07500bb500f9053e09720ed7021b07500bb500f905"
)
MSE_CODES = [
    "50e9720c952ec750ea720ca53ec750fa730ca53fc850fa831da53fd861fa831d",
    "a64fd861fa842db64fd862fb842db64fd972fb953db75fd973fb953db75fd973",
    "0c952ec750e9720ca52ec750ea730ca52fd750fa830da53fd850fa830da53fd8",
    "61fa841da64fd862fb842db64fd862fb88888888888888888888888888888888",
]
MSE_SCALES = "0000f83c0000f53c0000843d0000903d0000f83d0000ea3d0000843e00008000"
ASYMMETRIC_CODES = [
    "40e9720c952ec750ea720ca53fc750fa730ca53fc850fa830da53fd851fa831d",
    "a52ec750fa720ca53fc750fa830ca53fd850fa831da53fd861fa831db63fd861",
    "0c942ec750e9720ca52ec750fa720ca53fc750fa830ca53fd850fa831da53fd8",
    "50e9720ca52ec750fa730ca53fc850fa00000000000000000000000000000000",
]
ASYMMETRIC_SCALES = "0000f53c0000f33c0000733d0000733d0000f33d0000f33d0000753e00008000"
ASYMMETRIC_ZERO_POINTS = "88778807"
INT8_CODES = [
    (
        "014a94de2670ba024c96e02872bc044e98e22a74be06509ae42c76c008529ce6"
        "2e78c20a549ee8307ac40c56a0ea327cc60e58a2ec347ec8105aa4ee3680ca12"
    ),
    (
        "5ca6f03882cc145ea8f23a84ce1660aaf43c86d01862acf63e88d21a64aef840"
        "8ad41c66b0fa428cd61e68b2fc448ed8206ab4fe4690da226cb6ff4892dc246e"
    ),
    (
        "b8014a94de2670ba024c96e02872bc044e98e22a74be06509ae42c76c008529c"
        "e62e78c20a549ee8307ac40c56a0ea327cc60e58a2ec347ec8105aa4ee3680ca"
    ),
    (
        "0b5aa8f73482d10d5caaf93684d30f5eadfb3886d51260affd3a88d71462b1ff"
        "8080808080808080808080808080808080808080808080808080808080808080"
    ),
]
INT8_SCALES = "8180003b8180803b8180003cf1f0703c"


def rows_hex(tensor: torch.Tensor) -> list[str]:
    return [row.numpy().tobytes().hex() for row in tensor]


@pytest.mark.parametrize(
    ("method", "scheme", "codes", "scales"),
    [
        ("rtn", G32, INT4_CODES, INT4_SCALES),
        ("mse", G32, MSE_CODES, MSE_SCALES),
        ("rtn", A32, ASYMMETRIC_CODES, ASYMMETRIC_SCALES),
        ("rtn", INT8, INT8_CODES, INT8_SCALES),
    ],
    ids=["rtn-int4", "mse-int4", "rtn-asym", "rtn-int8"],
)
def test_golden_bytes(method: str, scheme: Scheme, codes: list[str], scales: str) -> None:
    weight = METHODS[method](torch.tensor(plain.golden_weight()).bfloat16(), scheme)
    data = matmul_nbits_weight(weight, 32)
    assert data.shape == (4, 2, 16 * scheme.bits // 4)
    assert rows_hex(data) == codes
    assert rows_hex(gather_block_weight(weight)) == codes
    assert weight.scales.numpy().tobytes().hex() == scales


def test_golden_bytes_of_zero_points() -> None:
    zeros = matmul_nbits_zero_points(METHODS["rtn"](torch.tensor(plain.golden_weight()), A32), 32)
    assert zeros is not None
    assert zeros.numpy().tobytes().hex() == ASYMMETRIC_ZERO_POINTS


def test_golden_bytes_of_the_onnx_tensor() -> None:
    weight = METHODS["rtn"](torch.tensor(plain.golden_weight()), G32)
    assert onnx_int4_columns(weight.codes).numpy().tobytes().hex() == INT4_COLUMNS


def test_golden_literals_follow_from_plain_python() -> None:
    rows = plain.golden_weight()
    groups = [[plain.int4_group(row[:32]), plain.int4_group(row[32:])] for row in rows]
    codes = [[code for _, part in pair for code in part] for pair in groups]
    assert [plain.nibbles([code + 8 for code in row]) for row in codes] == INT4_CODES
    assert plain.nibbles([codes[n][k] % 16 for k in range(64) for n in range(4)]) == INT4_COLUMNS
    scales = torch.tensor([scale for pair in groups for scale, _ in pair])
    assert scales.numpy().tobytes().hex() == INT4_SCALES
    asymmetric = [[plain.int4_asymmetric_group(row[:32]), plain.int4_asymmetric_group(row[32:])] for row in rows]
    assert [
        plain.nibbles([code for _, _, part in pair for code in part]) for pair in asymmetric
    ] == ASYMMETRIC_CODES
    assert plain.nibbles([zero for pair in asymmetric for _, zero, _ in pair]) == ASYMMETRIC_ZERO_POINTS
    eight = [plain.int8_row(row)[1] for row in rows]
    assert [bytes(code + 128 for code in row).hex() for row in eight] == INT8_CODES
