"""The rules of the yardstick give the codes of the real kernels to the last bit, also just beside a tie."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from helium_edge.model.weights import layer_name
from helium_edge.targets import load_target
from helium_edge.targets.debug import DebugCall
from tests.helpers.bundles import CACHE_LEN, MODEL, PREFILL_LEN, bundle_recipe, export_bundle
from tests.helpers.checkpoints import make_checkpoint

needs_executorch = pytest.mark.skipif(
    importlib.util.find_spec("executorch") is None, reason="executorch is not installed"
)
BLOCK = 32


def beside_ties(rows: int, width: int, seed: int) -> np.ndarray:
    """(rows, width): all but the largest and the smallest of each row lie on the middle, within float32."""
    rng = np.random.default_rng(seed)
    x = np.empty((rows, width), np.float32)
    for row in x:
        # Every block has the same absmax, so that these are the middles of codes per block as well as per token.
        top, low = rng.uniform(0.5, 2.0), -rng.uniform(0.5, 2.0)
        step = max(top, -low) / 127 if seed % 2 else (top - low) / 255
        codes = np.arange(np.ceil(low / step), np.floor(top / step) - 1)
        row[:] = (rng.choice(codes, width) + 0.5) * step
        row[::BLOCK], row[1::BLOCK] = top, low
    return x


@pytest.mark.parametrize(
    "recipe",
    ["onnx-int4", "onnx-int8", pytest.param("xnnpack-int4", marks=needs_executorch)],
)
def test_codes_are_those_of_the_kernel(recipe: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "c", **MODEL | {"num_hidden_layers": 1}, vocab_size=320)
    spoken = bundle_recipe(recipe)
    export = export_bundle(checkpoint, spoken, tmp_path / "b")
    bundle, store, config = export.open(), export.store, export.store.config
    target = bundle.manifest.target.name
    rules = load_target(target).arithmetic(spoken, store.plan).rules
    names = [layer_name(0, f"self_attn.{part}_proj.weight") for part in "qkv"]
    weight = torch.cat([store.dense(name) for name in names])
    past = (np.zeros((config.num_key_value_heads, CACHE_LEN, config.head_dim), np.float32),) * 2
    programs = {phase: p for p in load_target(target).debug(bundle) for phase in p.phases}
    for phase, rows in (("prefill", PREFILL_LEN), ("decode", 1)):
        for seed in range(6):
            x = beside_ties(rows, config.hidden_size, seed)
            call = DebugCall(np.full(rows, 5, np.int64), 3)
            other = np.ones((rows, config.hidden_size), np.float32)
            values = {
                "residual": other, "sum1": other, "o_proj": other, "attention": other, "input_layernorm": x,
                "post_attention_layernorm": other, "qkv": np.ones((rows, len(weight)), np.float32),
                "gate_up": np.ones((rows, 2 * config.intermediate_size), np.float32),
                "activation": np.ones((rows, config.intermediate_size), np.float32),
            }  # fmt: skip
            found = programs[phase].layer(0, call, values, past, cut=True)["qkv"]  # type: ignore[index]
            codes = rules[names[0]].codes(torch.from_numpy(x))
            expected = (codes.rounded * codes.scale @ weight.T).numpy()
            # One activation that is rounded the other way costs 1e-3.
            error = np.abs(found - expected).max() / np.sqrt(np.square(expected).mean())
            assert error < 2e-5, (phase, seed)
