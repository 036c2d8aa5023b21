"""A token of llama.cpp, put together from its operators."""

from __future__ import annotations

import json

import pytest

from arm64.llama_steps import FILES, llama_steps
from helium_edge.bench.phones import COSTS
from helium_edge.presets import preset

CONFIG = preset("helium-1-preview-2b")
ONE = {"decode": 1.0, "bytes": 1.0, "call": 0.0, "prefill": 1.0, "chunk at 0": 0.0}


@pytest.mark.parametrize("file", FILES)
def test_every_weight_is_read_once(file: str) -> None:
    assert CONFIG is not None
    kinds = ("q4_0", "q4_K", "q6_K", "q8_0")
    costs = {f"product {kind}": ONE for kind in kinds} | {"attention float16": ONE, "norm": ONE, "activation": ONE}
    first, *_ = llama_steps(costs, CONFIG, file)
    layers = CONFIG.num_hidden_layers * (4 * 2560 * 2560 + 3 * 2560 * 7040)
    assert first.bytes == layers + CONFIG.vocab_size * 2560


def test_the_committed_table_knows_its_operators() -> None:
    assert CONFIG is not None
    costs = json.loads(COSTS.read_text(encoding="utf-8"))["costs"]["llama"]
    for cpu in ("cortex-a76", "i8mm"):
        q4, q4_k_m, q8 = (llama_steps(costs[cpu], CONFIG, file) for file in ("Q4_0", "Q4_K_M", "Q8_0"))
        # Q4_0 has 4.5 bits a weight, and Q6_K in the head 6.6; each token of the float16 cache is read once.
        assert q4[0].bytes == pytest.approx(1.927e9 * 4.5 / 8 + 122.9e6 * 6.56 / 8, rel=0.02)
        assert q4[-2].bytes - q4[0].bytes == pytest.approx(2048 * 24 * 20 * 4 * 128, rel=0.02)
        assert q4[0].bytes < q4_k_m[0].bytes < q8[0].bytes
        assert q4[-1].instructions < q4_k_m[-1].instructions
