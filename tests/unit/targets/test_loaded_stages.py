from __future__ import annotations

from dataclasses import replace

from helium_edge.presets import preset
from helium_edge.targets.debug import LoadedStages


def loads(layers: int, hidden_size: int) -> list[int]:
    """The layers that are loaded when a model is traced twice."""
    config = preset("helium-1-preview-2b")
    assert config is not None
    small = replace(config, num_hidden_layers=layers, hidden_size=hidden_size, vocab_size=4096)
    stages: LoadedStages[int] = LoadedStages(small)
    loaded: list[int] = []

    def load(layer: int) -> int:
        loaded.append(layer)
        return layer

    for _ in range(2):
        for layer in range(layers):
            assert stages.get(("layer", layer, False), lambda layer=layer: load(layer)) == layer
    return loaded


def test_every_stage_of_a_small_model_is_loaded_once() -> None:
    assert loads(4, 256) == [0, 1, 2, 3]


def test_one_stage_of_a_large_model_is_loaded_at_a_time() -> None:
    assert loads(4, 2560) == [0, 1, 2, 3, 0, 1, 2, 3]
