"""What attention of one decode step costs in XNNPACK, a slot of the cache and a layer: where the time goes.

    python benchmarks/pte_attention.py [--slots 256,1024] [--pieces 64,128,256] [--layers 16] [--repeats 30]

Programs of nothing but attention, in variants: `product` is what is lowered (queries times keys, weights times
values), `first operand` has keys and transposed values in front, which XNNPACK need not pack, `keys` and
`values` have one of the two products alone, `int8` is `product` over an int8 cache. `pieces of 128` is one of
these in pieces of as many slots, as exported decode methods have them. `memory` gives each layer a cache of its
own, `cache` one to all layers, which the processor's cache may hold. Shares of operators come from ExecuTorch's
profile.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from helium_edge.runtime.executorch_library import load_runtime
from helium_edge.targets.xnnpack.lowering import load_exporter, lower, write_program

VARIANTS = ("product", "first operand", "keys", "values", "int8")
IN_PIECES = ("product", "int8")


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
        for keys, values in zip(map(self.read, cache[::2]), map(self.read, cache[1::2]), strict=True):
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

    def read(self, cache: Tensor) -> Tensor:
        """A cache as float32, as `Int8Rows` has it."""
        if self.variant != "int8":
            return cache
        numbers = torch.ops.quantized_decomposed.dequantize_per_tensor(cache, 1.0, 0, -128, 127, torch.int8)
        return torch.clamp(numbers, -128, 127)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Zeros of every input's shape and type."""
        cache = [torch.zeros(shape, dtype=self.dtype) for shape in self.shapes]
        return torch.zeros(self.heads, 1, self.head_dim), torch.zeros(1, self.slots), *cache

    @property
    def dtype(self) -> torch.dtype:
        """Of the cache."""
        return torch.int8 if self.variant == "int8" else torch.float32


def inputs_of(module: Attention, *, own: bool) -> list[Tensor]:
    """Random inputs; every layer has a cache of its own, or all have the first one's."""
    query, mask = torch.randn(module.heads, 1, module.head_dim), torch.zeros(1, module.slots)
    shapes = module.shapes if own else module.shapes[:2]
    cache = [torch.randn(shape).clamp(-3, 3).mul(40).to(module.dtype) for shape in shapes]
    return [query, mask, *(cache * (len(module.shapes) // len(cache)))]


@contextlib.contextmanager
def cutting(piece_bytes: int) -> Iterator[None]:
    """Let what is lowered meanwhile have its attention in pieces; see `helium_edge.targets.xnnpack.pieces`."""
    from executorch.backends.xnnpack import xnnpack_preprocess

    from helium_edge.targets.xnnpack.pieces import in_pieces

    plain = xnnpack_preprocess.serialize_xnnpack_binary

    def serialize(graph: Any, constants: bytearray) -> Any:
        return plain(in_pieces(graph, piece_bytes), constants)

    with mock.patch.object(xnnpack_preprocess, "serialize_xnnpack_binary", serialize):
        yield


def main() -> None:
    """Print a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", default="256,1024")
    parser.add_argument("--pieces", default="64,128,256")
    for name, default in (("layers", 16), ("heads", 20), ("head-dim", 128), ("repeats", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    load_exporter()
    row = 4 * args.heads * args.head_dim
    print(f"microseconds a slot and layer, median; a slot of a layer has {2 * row / 1e3:.1f} KB as float32")
    for slots in map(int, args.slots.split(",")):
        for variant in VARIANTS:
            show(args, variant, slots, variant, contextlib.nullcontext())
        for variant in IN_PIECES:
            for piece in [piece for piece in map(int, args.pieces.split(",")) if piece < slots]:
                show(args, variant, slots, f"{variant}, pieces of {piece}", cutting(piece * row))


def show(
    args: argparse.Namespace, variant: str, slots: int, name: str, how: contextlib.AbstractContextManager[None]
) -> None:
    """Measure a variant that is lowered within a context, and print its line."""
    module = Attention(variant, args.layers, args.heads, slots, args.head_dim)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "attention.pte")
        with how:
            write_program(lower({"forward": module}, {}), path)
        figures = " ".join(
            f"{place} {measure(path, inputs_of(module, own=own), args) / slots / args.layers * 1e6:5.2f}"
            for place, own in (("memory", True), ("cache", False))
        )
        shares = profile(path, inputs_of(module, own=True)) if variant in IN_PIECES else ""
    print(f"{slots:>5} slots, {name:<22}: {figures}  {shares}".rstrip(), flush=True)


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
