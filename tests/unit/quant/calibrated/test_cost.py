"""The memory that a calibration is said to take: for a released model, and against the number of layers."""

from __future__ import annotations

import dataclasses

from helium_edge.presets import PRESETS, preset
from helium_edge.quant import plan_weights
from helium_edge.quant.calibrated.cost import peak_bytes
from helium_edge.recipe import load_recipe

GIB = 1 << 30


def test_two_billion_parameters_take_about_four_gibibytes_with_any_number_of_layers() -> None:
    recipe = load_recipe("onnx-int4")
    for name in PRESETS:
        config = preset(name)
        assert config is not None
        plan = plan_weights(config, recipe.quantization)
        found = peak_bytes(config, plan, 8192)
        assert 2 * GIB < found < (4 if "preview" in name else 4.2) * GIB
        assert peak_bytes(config, plan, 16384) > found
        deeper = dataclasses.replace(config, num_hidden_layers=2 * config.num_hidden_layers)
        assert peak_bytes(deeper, plan_weights(deeper, recipe.quantization), 8192) == found
