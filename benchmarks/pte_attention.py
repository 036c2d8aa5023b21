"""What attention of one decode step costs in XNNPACK, a slot of the cache and a layer: where the time goes.

    python benchmarks/pte_attention.py [--slots 256,1024] [--pieces 64,128,256] [--layers 16] [--repeats 30]

Graphs of nothing but attention, in variants: `whole` multiplies a cache as it lies, with keys in the order of
their rows; `transposed` exchanges the axes of the keys first, as exports before graphs were emitted did; `keys`
and `values` have one of the two products alone; `int8` is `whole` over an int8 cache. `pieces of 128` has a cache
in pieces of as many slots, as exported methods have it. `memory` gives each layer a cache of its own, `cache` one
to all layers, which the processor's cache may hold. Variants take turns, and ratios are to the first of a length.
Shares of operators come from ExecuTorch's profile.
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

from helium_edge.pte import xnnpack_schema as schema
from helium_edge.pte.builder import ProgramBuilder
from helium_edge.runtime.executorch_library import load_runtime, open_program
from helium_edge.targets.xnnpack.graph import GraphBuilder

VARIANTS = ("whole", "transposed", "keys", "values", "int8")
IN_PIECES = ("whole", "transposed", "int8")


class Attention:
    """Attention of one token, layer after layer: the result of one is the query of the next.

    Args:
        variant: One of `VARIANTS`.
        piece: Slots of a piece; None takes a cache whole.
        args: Layers, heads (H) and head_dim (D).
        slots: S.
    """

    def __init__(self, variant: str, piece: int | None, args: argparse.Namespace, slots: int) -> None:
        self.variant, self.slots, self.layers = variant, slots, args.layers
        self.piece = piece or slots
        self.heads, self.dim = args.heads, args.head_dim
        self.dtype = torch.int8 if variant == "int8" else torch.float32

    def write(self, path: Path) -> None:
        """Write the program."""
        program, graph = ProgramBuilder(), GraphBuilder()
        method = program.method("forward")
        query = graph.input(method.input(torch.float32, [self.heads, 1, self.dim]), [self.heads, 1, self.dim])
        mask = graph.input(method.input(torch.float32, [1, self.slots]), [1, self.slots])
        shape = [self.heads, self.slots, self.dim]
        for _ in range(self.layers):
            kind = schema.Datatype.QINT8 if self.dtype == torch.int8 else schema.Datatype.FP32
            keys, values = (graph.input(method.input(self.dtype, shape), shape, kind) for _ in "kv")
            query = self._layer(graph, query, mask, keys, values)
        graph.output(query, method.output(torch.float32, [self.heads, 1, self.dim]))
        method.delegate(schema.BACKEND, graph.finish, graph.arguments)
        program.write(path)

    def _layer(self, graph: GraphBuilder, query: int, mask: int, keys: int, values: int) -> int:
        places = [(start, min(start + self.piece, self.slots)) for start in range(0, self.slots, self.piece)]
        if self.variant == "values":
            scores = graph.slice(query, 2, 0, 1)
        else:
            scores = graph.concatenate([self._scores(graph, query, keys, place) for place in places], 2)
        weights = graph.unary(schema.XNNSoftmax, graph.add(scores, mask))
        if self.variant == "keys":
            return graph.add(query, graph.slice(weights, 2, 0, 1))
        total = None
        for place in places:
            read = self._read(graph, values, place)
            part = graph.matmul(graph.slice(weights, 2, *place), read)
            total = part if total is None else graph.add(total, part)
        assert total is not None
        return total

    def _scores(self, graph: GraphBuilder, query: int, keys: int, place: tuple[int, int]) -> int:
        read = self._read(graph, keys, place)
        if self.variant == "transposed":
            return graph.matmul(query, graph.transpose(read, [0, 2, 1]))
        return graph.matmul(query, read, transpose=True)

    def _read(self, graph: GraphBuilder, cache: int, place: tuple[int, int]) -> int:
        piece = graph.slice(cache, 1, *place)
        return graph.clamp(graph.widen(piece), -128, 127) if self.dtype == torch.int8 else piece

    def inputs(self, *, own: bool) -> list[Tensor]:
        """Random inputs; every layer has a cache of its own, or all have the first one's."""
        query, mask = torch.randn(self.heads, 1, self.dim), torch.zeros(1, self.slots)
        count = self.layers if own else 1
        shape = (self.heads, self.slots, self.dim)
        cache = [torch.randn(shape).clamp(-3, 3).mul(40).to(self.dtype) for _ in range(2 * count)]
        return [query, mask, *(cache * (self.layers // count))]


def main() -> None:
    """Print a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", default="256,1024")
    parser.add_argument("--pieces", default="64,128,256")
    for name, default in (("layers", 16), ("heads", 20), ("head-dim", 128), ("repeats", 30)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    args = parser.parse_args()
    row = 8 * args.heads * args.head_dim
    print(f"microseconds a slot and layer, median; a slot of a layer has {row / 1e3:.1f} KB as float32")
    chosen = args.variants.split(",")
    for slots in map(int, args.slots.split(",")):
        pieces = [piece for piece in map(int, args.pieces.split(",")) if piece < slots]
        tried = [(variant, None) for variant in chosen]
        tried += [(variant, piece) for variant in IN_PIECES if variant in chosen for piece in pieces]
        show(args, [Attention(variant, piece, args, slots) for variant, piece in tried])


def show(args: argparse.Namespace, variants: list[Attention]) -> None:
    """Measure variants of one length in turns, and print their lines."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.pte") for number in range(len(variants))]
        for variant, path in zip(variants, paths, strict=True):
            variant.write(path)
        found = {own: measure(list(zip(variants, paths, strict=True)), args, own=own) for own in (True, False)}
        for number, (variant, path) in enumerate(zip(variants, paths, strict=True)):
            slots = variant.slots * variant.layers
            name = variant.variant + (f", pieces of {variant.piece}" if variant.piece < variant.slots else "")
            figures = []
            for place, own in (("memory", True), ("cache", False)):
                mine, first = found[own][number], found[own][0]
                ratio = statistics.median(a / b for a, b in zip(mine, first, strict=True))
                figures.append(f"{place} {statistics.median(mine) / slots * 1e6:5.2f} ({ratio:4.2f})")
            shares = profile(path, variant.inputs(own=True))
            print(f"{variant.slots:>5} slots, {name:<29}: {' '.join(figures)}  {shares}", flush=True)


def measure(programs: list[tuple[Attention, Path]], args: argparse.Namespace, *, own: bool) -> list[list[float]]:
    """Seconds of each call of each program; they take turns."""
    loaded = [
        (open_program(path, "a benchmark").load_method("forward"), variant.inputs(own=own))
        for variant, path in programs
    ]
    seconds: list[list[float]] = [[] for _ in loaded]
    for turn in range(args.repeats + 1):
        for number, (method, inputs) in enumerate(loaded):
            start = time.perf_counter()
            method.execute(inputs)
            if turn:
                seconds[number].append(time.perf_counter() - start)
    return seconds


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
