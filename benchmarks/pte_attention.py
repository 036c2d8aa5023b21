"""What attention of one decode step costs in XNNPACK, a slot of the cache and a layer: where the time goes.

    python benchmarks/pte_attention.py [--slots 256,1024] [--layers 16] [--repeats 30]

Programs of nothing but attention, as our graphs compute it, in variants: `product` is ours (queries times keys,
weights times values), `first operand` has keys and transposed values in front, which XNNPACK need not pack, `keys`
and `values` have one of the two products alone. `memory` gives each layer a cache of its own, `cache` one to all
layers, which the processor's cache may hold. Shares of operators come from ExecuTorch's profile of `product`.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helium_edge.runtime.executorch_library import load_runtime
from helium_edge.targets.xnnpack.lowering import load_exporter, lower, write_program

VARIANTS = ("product", "first operand", "keys", "values")


class Attention(torch.nn.Module):
    """Attention of one token, layer after layer: the result of one is the query of the next."""

    def __init__(self, variant: str, layers: int, heads: int, slots: int, head_dim: int) -> None:
        super().__init__()
        self.variant = variant
        value = (heads, head_dim, slots) if variant == "first operand" else (heads, slots, head_dim)
        self.shapes = [(heads, slots, head_dim), value] * layers
        self.heads, self.slots, self.head_dim = heads, slots, head_dim

    def forward(self, query: Tensor, mask: Tensor, *cache: Tensor) -> Tensor:
        """(H, 1, D), (1, S) and keys and values of each layer -> (H, 1, D)."""
        for keys, values in zip(cache[::2], cache[1::2], strict=True):
            if self.variant == "first operand":
                scores = torch.bmm(keys, query.transpose(1, 2)).transpose(1, 2) + mask
            elif self.variant == "values":
                scores = query[:, :, :1] + mask
            else:
                scores = torch.bmm(query, keys.transpose(1, 2)) + mask
            weights = torch.softmax(scores, -1)
            if self.variant == "first operand":
                query = torch.bmm(values, weights.transpose(1, 2)).transpose(1, 2)
            elif self.variant == "keys":
                query = query + weights[:, :, :1]
            else:
                query = torch.bmm(weights, values)
        return query

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Zeros of every input's shape and type."""
        cache = [torch.zeros(shape) for shape in self.shapes]
        return torch.zeros(self.heads, 1, self.head_dim), torch.zeros(1, self.slots), *cache


def inputs_of(module: Attention, *, own: bool) -> list[Tensor]:
    """Random inputs; every layer has a cache of its own, or all have the first one's."""
    query, mask = torch.randn(module.heads, 1, module.head_dim), torch.zeros(1, module.slots)
    cache = [torch.randn(shape) for shape in (module.shapes if own else module.shapes[:2])]
    return [query, mask, *(cache * (len(module.shapes) // len(cache)))]


def main() -> None:
    """Print a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", default="256,1024")
    for name, default in (("layers", 16), ("heads", 20), ("head-dim", 128), ("repeats", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    load_exporter()
    print("microseconds a slot and layer, median; a slot of a layer has "
          f"{8 * args.heads * args.head_dim / 1e3:.1f} KB")  # fmt: skip
    for slots in map(int, args.slots.split(",")):
        for variant in VARIANTS:
            module = Attention(variant, args.layers, args.heads, slots, args.head_dim)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "attention.pte")
                write_program(lower({"forward": module}, {}), path)
                figures = " ".join(
                    f"{place} {measure(path, inputs_of(module, own=own), args) / slots / args.layers * 1e6:.2f}"
                    for place, own in (("memory", True), ("cache", False))
                )
                shares = profile(path, inputs_of(module, own=True)) if variant == VARIANTS[0] else ""
            print(f"{slots:>5} slots, {variant:<13}: {figures} {shares}".rstrip(), flush=True)


def measure(path: Path, inputs: list[Tensor], args: argparse.Namespace) -> float:
    """Median seconds of a call."""
    method = load_runtime("a benchmark")._load_program(str(path)).load_method("forward")
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        method(inputs, clone_outputs=False)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def profile(path: Path, inputs: list[Tensor]) -> str:
    """Share of each kind of operator in the time that XNNPACK's operators take."""
    from executorch.devtools import Inspector

    module: Any = load_runtime("a benchmark")._load_for_executorch(str(path), enable_etdump=True)
    for _ in range(10):
        module.forward(inputs)
    dump = path.with_suffix(".etdp")
    module.write_etdump_result_to_file(str(dump))
    times: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no outputs of operators were asked for
        blocks = Inspector(str(dump)).event_blocks
    for block in blocks:
        for event in block.events:
            # Operators of a delegate are numbered: "Softmax (NC, F32) #1".
            if block.name == "Execute" and event.perf_data is not None and " #" in event.name:
                times[event.name.split(" (")[0]] += float(np.median(event.perf_data.raw))
    total = sum(times.values())
    return ", ".join(f"{name} {value / total:.0%}" for name, value in times.most_common(3))


if __name__ == "__main__":
    main()
