"""Byte layouts of quantized weights, and the exact way back from each: the only module with bit shifts.

Nibbles: two 4-bit values a byte, the one with the even index in the low nibble.

codes (the store)
    (N, K*bits/8) uint8: int4 as code + 8 in nibbles, asymmetric int4 as the code itself, int8 as code + 128.
MatMulNBits (ONNX Runtime)
    (N, blocks, block_size*bits/8) uint8: the same values block by block along K, blocks = ceil(K / block_size),
    the last one padded with the code for zero; scales (N, blocks) float32; zero points in nibbles,
    (N, ceil(blocks/2)) uint8, absent when symmetric.
GatherBlockQuantized (ONNX Runtime)
    (V, H*bits/8) uint8: the layout `codes`; scales and zero points as MatMulNBits.
CoreML INT4
    the codes (N, K), flattened, as two's complement nibbles; an odd count is padded with 0 at the end.
ONNX INT4, UINT4 (standard)
    the same of the transposed codes [K, N].
embedding_4bit (ExecuTorch)
    (V, H/2) uint8: code + 8 in nibbles, but the one with the even index in the high nibble.

XNNPACK's int4 weights in a `.pte` have the layout `codes`.
A per-channel scale is repeated for every block. Blocks are of one size: the group size, or a divisor of it.
"""

from __future__ import annotations

import sys

import torch
from torch.nn.functional import pad

from helium_edge.quant.affine import QuantizedWeight
from helium_edge.quant.parallel import map_rows
from helium_edge.recipe import Scheme


def pack_nibbles(values: torch.Tensor) -> torch.Tensor:
    """Pack values 0..15, two a byte, along the last axis.

    Args:
        values: (..., n) uint8 below 16; an odd n is padded with 0.

    Returns:
        (..., ceil(n / 2)) uint8; value 2i in the low nibble of byte i.
    """
    if values.shape[-1] % 2:
        values = pad(values, (0, 1))
    if sys.byteorder == "little" and values.is_contiguous():
        # Two values as one number: passes over whole words are several times faster than over every other byte.
        pairs = values.view(torch.int16)
        return (pairs | (pairs >> 4)).to(torch.uint8)
    return values[..., 0::2] | (values[..., 1::2] << 4)


def unpack_nibbles(data: torch.Tensor, count: int) -> torch.Tensor:
    """Undo `pack_nibbles`: (..., ceil(count / 2)) uint8 -> (..., count) uint8."""
    if data.shape[-1] != -(-count // 2):
        raise ValueError(f"{count} nibbles take {-(-count // 2)} bytes, found {data.shape[-1]}")
    return torch.stack((data & 0xF, data >> 4), dim=-1).flatten(-2)[..., :count]


def pack_codes(codes: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Pack codes (N, K) int8 into the layout `codes`, (N, K*bits/8) uint8; an odd K of int4 is padded."""
    rows, columns = codes.shape
    packed = torch.empty(rows, -(-columns * scheme.bits // 8), dtype=torch.uint8)

    def work(chunk: slice) -> None:
        packed[chunk] = _pack_rows(codes[chunk].view(torch.uint8), scheme)

    map_rows(work, rows, columns)
    return packed


def _pack_rows(values: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    if scheme.bits == 8:
        return values ^ 0x80
    return pack_nibbles(values + 8 if scheme.symmetric else values)


def unpack_codes(data: torch.Tensor, scheme: Scheme, columns: int) -> torch.Tensor:
    """Undo `pack_codes`: (..., K*bits/8) uint8 -> (..., K) int8."""
    if scheme.bits == 8:
        if data.shape[-1] != columns:
            raise ValueError(f"{columns} int8 codes take {columns} bytes, found {data.shape[-1]}")
        return (data ^ 0x80).view(torch.int8)
    values = unpack_nibbles(data, columns).view(torch.int8)
    return values - 8 if scheme.symmetric else values


def block_count(columns: int, block_size: int) -> int:
    """Blocks in a row, the last one possibly ragged."""
    return -(-columns // block_size)


def matmul_nbits_weight(weight: QuantizedWeight, block_size: int) -> torch.Tensor:
    """Input `B` of MatMulNBits: (N, blocks, block_size*bits/8) uint8."""
    _blocks_per_group(weight, block_size)
    rows, columns = weight.shape
    blocks = block_count(columns, block_size)
    packed = pack_codes(weight.codes, weight.scheme)
    missing = (blocks * block_size - columns) * weight.scheme.bits // 8
    if missing:  # int8 only: int4 groups divide K
        packed = pad(packed, (0, missing), value=0x80)
    return packed.view(rows, blocks, -1)


def matmul_nbits_scales(weight: QuantizedWeight, block_size: int) -> torch.Tensor:
    """Input `scales` of MatMulNBits and GatherBlockQuantized: (N, blocks) float32."""
    return weight.scales.repeat_interleave(_blocks_per_group(weight, block_size), dim=1)


def matmul_nbits_zero_points(weight: QuantizedWeight, block_size: int) -> torch.Tensor | None:
    """Input `zero_points` of the same operators: (N, ceil(blocks/2)) uint8; None means 8, or 128 for int8."""
    if weight.zero_points is None:
        return None
    zero_points = weight.zero_points.repeat_interleave(_blocks_per_group(weight, block_size), dim=1)
    return pack_nibbles(zero_points.view(torch.uint8))


def read_matmul_nbits(
    data: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor | None, *, scheme: Scheme, columns: int
) -> QuantizedWeight:
    """Undo the three functions above.

    Args:
        data: (N, blocks, block_size*bits/8) uint8.
        scales: (N, blocks) float32.
        zero_points: (N, ceil(blocks/2)) uint8, or None.
        scheme: The format that was packed.
        columns: K.

    Raises:
        ValueError: Shapes do not fit, or blocks of one group differ in scale or zero point.
    """
    rows, blocks, _ = data.shape
    codes = data.reshape(rows, -1)[:, : columns * scheme.bits // 8].contiguous()
    zeros = None if zero_points is None else unpack_nibbles(zero_points, blocks).view(torch.int8)
    groups = 1 if scheme.group_size is None else columns // scheme.group_size
    return QuantizedWeight(
        scheme,
        unpack_codes(codes, scheme, columns),
        _merge_blocks(scales, groups),
        None if zeros is None else _merge_blocks(zeros, groups),
    )


def gather_block_weight(weight: QuantizedWeight) -> torch.Tensor:
    """Input `data` of GatherBlockQuantized: (V, H*bits/8) uint8; the other inputs are those of MatMulNBits."""
    return pack_codes(weight.codes, weight.scheme)


def read_gather_block(
    data: torch.Tensor, scales: torch.Tensor, zero_points: torch.Tensor | None, *, scheme: Scheme, columns: int
) -> QuantizedWeight:
    """Undo `gather_block_weight`; see `read_matmul_nbits` for the other arguments and what is raised."""
    rows, blocks = scales.shape
    zeros = None if zero_points is None else unpack_nibbles(zero_points, blocks).view(torch.int8)
    groups = 1 if scheme.group_size is None else columns // scheme.group_size
    return QuantizedWeight(
        scheme,
        unpack_codes(data.view(rows, -1), scheme, columns),
        _merge_blocks(scales, groups),
        None if zeros is None else _merge_blocks(zeros, groups),
    )


def embedding_4bit_weight(weight: QuantizedWeight) -> torch.Tensor:
    """Input `weight` of embedding_4bit: (V, H/2) uint8; symmetric int4 only."""
    return _swap_nibbles(pack_codes(weight.codes, weight.scheme))


def read_embedding_4bit(data: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """Undo `embedding_4bit_weight`: (V, H/2) uint8 -> codes (V, H) int8."""
    return unpack_codes(_swap_nibbles(data), scheme, 2 * data.shape[-1])


def int4_rows(values: torch.Tensor) -> torch.Tensor:
    """Data of a CoreML INT4 constant: flattened, packed.

    Args:
        values: int8 of any shape in [-8, 7], or in [0, 15] for unsigned types.

    Returns:
        (ceil(n / 2),) uint8 for n values.
    """
    return pack_nibbles(values.reshape(-1).view(torch.uint8) & 0xF)


def read_int4_rows(data: torch.Tensor, count: int) -> torch.Tensor:
    """Undo `int4_rows` of signed values: (ceil(count / 2),) uint8 -> (count,) int8."""
    return (unpack_nibbles(data.reshape(-1), count).view(torch.int8) ^ 8) - 8  # sign extension


def onnx_int4_columns(codes: torch.Tensor) -> torch.Tensor:
    """Raw data of an ONNX INT4 tensor [K, N] (UINT4 for codes 0..15): transposed, flattened, packed.

    Args:
        codes: (N, K) int8 in [-8, 7] or [0, 15]: a weight, or zero points (N, G).

    Returns:
        (ceil(N*K / 2),) uint8.
    """
    return int4_rows(codes.t())


def read_onnx_int4_columns(data: torch.Tensor, *, rows: int, columns: int, signed: bool) -> torch.Tensor:
    """Undo `onnx_int4_columns`: raw uint8 data -> (N, K) int8, N = `rows`, K = `columns`."""
    count = rows * columns
    values = read_int4_rows(data, count) if signed else unpack_nibbles(data.reshape(-1), count).view(torch.int8)
    return values.view(columns, rows).t().contiguous()


def _swap_nibbles(data: torch.Tensor) -> torch.Tensor:
    return (data << 4) | (data >> 4)


def _blocks_per_group(weight: QuantizedWeight, block_size: int) -> int:
    if weight.scheme.group_size is None:
        return block_count(weight.shape[1], block_size)
    if weight.scheme.group_size % block_size:
        raise ValueError(f"{weight.scheme}: blocks of {block_size} do not divide a group")
    return weight.scheme.group_size // block_size


def _merge_blocks(values: torch.Tensor, groups: int) -> torch.Tensor:
    """(N, blocks) -> (N, groups): blocks of one group carry the same value."""
    blocks = values.shape[1]
    if blocks % groups:
        raise ValueError(f"{blocks} blocks cannot carry {groups} groups")
    grouped = values.reshape(-1, groups, blocks // groups)
    if not bool((grouped == grouped[..., :1]).all()):
        raise ValueError("blocks of one group differ in scale or zero point")
    return grouped[..., 0].contiguous()
