"""Layouts of ExecuTorch: known bytes, and the exact way back."""

from __future__ import annotations

import torch

from helium_edge.quant import QuantizedWeight
from helium_edge.quant.packing import embedding_4bit_weight, pack_codes, read_embedding_4bit
from helium_edge.recipe import Scheme

INT4 = Scheme(bits=4, group_size=32)


def weight(rows: int = 5, columns: int = 64) -> QuantizedWeight:
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-8, 8, (rows, columns), generator=generator, dtype=torch.int8)
    return QuantizedWeight(INT4, codes, torch.ones(rows, columns // 32))


def test_the_even_index_is_in_the_high_nibble() -> None:
    codes = torch.zeros(1, 32, dtype=torch.int8)
    codes[0, :4] = torch.tensor([-8, 7, 1, -1])
    packed = embedding_4bit_weight(QuantizedWeight(INT4, codes, torch.ones(1, 1)))
    assert packed.dtype == torch.uint8
    assert packed[0].tolist() == [0x0F, 0x97, *[0x88] * 14]


def test_back_to_the_codes() -> None:
    given = weight()
    assert torch.equal(read_embedding_4bit(embedding_4bit_weight(given), INT4), given.codes)


def test_it_is_not_the_layout_of_the_store() -> None:
    given = weight()
    assert not torch.equal(embedding_4bit_weight(given), pack_codes(given.codes, INT4))
