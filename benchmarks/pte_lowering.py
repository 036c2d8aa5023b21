"""Time and memory of making a `.pte` of a released shape from made-up integers: lowering and writing alone.

    python benchmarks/pte_lowering.py [--preset helium-1-preview-2b] [--layers N] [--recipe xnnpack-int4] [--whole]

`--whole` hands every weight to ExecuTorch, as exports did before weights were streamed (docs/adr/0012). Memory is
what Linux calls resident and anonymous: pages of files do not count.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, cast

import torch

from helium_edge.model.kv_cache import KvScales
from helium_edge.model.weights import vector_names
from helium_edge.presets import preset
from helium_edge.quant import QuantizedStore, QuantizedWeight, plan_weights
from helium_edge.recipe import load_recipe
from helium_edge.targets.xnnpack import target as xnnpack
from helium_edge.targets.xnnpack.lowering import load_exporter
from helium_edge.targets.xnnpack.parts import StoreParts


class MadeUpStore:
    """Weights of the right shapes, no two equal; the same each time."""

    def __init__(self, config: Any, quantization: Any) -> None:
        self.config = config
        self.plan = plan_weights(config, quantization)
        self._planned = {planned.name: planned for planned in self.plan}
        self._number = {name: index for index, name in enumerate([*self._planned, *vector_names(config)])}

    def get(self, name: str) -> QuantizedWeight | torch.Tensor:
        planned, number = self._planned[name], self._number[name]
        if planned.scheme is None:
            return torch.full(planned.shape, 0.01 + number)
        codes = torch.ones(planned.shape, dtype=torch.int8)
        codes[0, :16] = torch.tensor([number >> bit & 1 for bit in range(16)], dtype=torch.int8)
        groups = planned.shape[1] // (planned.scheme.group_size or planned.shape[1])
        return QuantizedWeight(planned.scheme, codes, torch.full((planned.shape[0], groups), 0.0078125))

    def vector(self, name: str) -> torch.Tensor:
        sizes = {"q_proj": self.config.hidden_size, "k_proj": self.config.kv_size, "v_proj": self.config.kv_size}
        size = sizes.get(name.split(".")[-2], self.config.hidden_size)
        return torch.full((size,), 1.0 + self._number[name] / 1024)


def made_up_scales(config: Any) -> KvScales:
    """Scales of an int8 cache."""
    scales = (torch.full((config.num_key_value_heads, config.head_dim), 0.03125),) * config.num_hidden_layers
    return KvScales(scales, scales)


class Watch(threading.Thread):
    """Reads the process's anonymous memory every tenth of a second; prints it with the CPU time at each stage."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._peak = 0.0

    def run(self) -> None:
        while True:
            self._peak = max(self._peak, self._now())
            time.sleep(0.1)

    def stage(self, name: str) -> None:
        peak, self._peak = self._peak, 0.0
        print(f"{name:<10} {time.process_time():7.1f} CPU s so far, {peak:5.2f} GiB at its peak", flush=True)

    @staticmethod
    def _now() -> float:
        return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="helium-1-preview-2b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--recipe", default="xnnpack-int4")
    parser.add_argument("--whole", action="store_true")
    args = parser.parse_args()

    watch = Watch()
    watch.start()
    load_exporter()
    from helium_edge.targets.xnnpack.streamed import StreamedParts

    if args.whole:
        StreamedParts._made = StoreParts._made  # type: ignore[method-assign]
    config, recipe = preset(args.preset), load_recipe(args.recipe)
    if config is None:
        parser.error(f"no preset {args.preset}")
    if args.layers:
        config = dataclasses.replace(config, num_hidden_layers=args.layers)
    store = cast("QuantizedStore", MadeUpStore(config, recipe.quantization))
    watch.stage("start")

    lower = xnnpack.lower

    def lower_stage(*given: Any) -> Any:
        watch.stage("build")
        program = lower(*given)
        watch.stage("lower")
        return program

    xnnpack.lower = lower_stage
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        scales = made_up_scales(config) if recipe.kv_cache == "int8" else None
        (file, *_) = xnnpack.XnnpackTarget().build(store, recipe, Path(folder), lambda _: None, scales)
        watch.stage("write")
        size = (Path(folder) / file.file).stat().st_size
    print(f"{config.num_hidden_layers} layers, {size / 2**20:.0f} MiB, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
