"""An XNNPACK program with a KV cache of each type: a released shape, made-up weights.

    python benchmarks/pte_cache.py [--preset helium-1-preview-2b] [--layers 2] [--cache-len 4096] [--calls 15]

Every slot of the cache holds numbers, and the position is near its end. Each program is made here and run twice,
in processes of its own. Memory is what Linux calls resident and anonymous: packed weights, cache and work space.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from helium_edge.presets import preset
from helium_edge.quant import QuantizedStore
from helium_edge.recipe import KvCacheFormat, Recipe, load_recipe
from helium_edge.runtime.executorch_runner import ExecutorchRunner
from helium_edge.signature import DecoderSpec
from helium_edge.targets.xnnpack.target import PROGRAM_FILE, XnnpackTarget
from made_up import MadeUpStore, made_up_scales

CACHES: tuple[KvCacheFormat, ...] = ("float32", "float16", "int8")


def measure(args: argparse.Namespace, config: Any, recipe: Recipe) -> None:
    """Print the figures of one program."""
    start = _anonymous()
    spec = DecoderSpec(config.vocab_size, XnnpackTarget().cache(config, recipe), recipe.shapes.prefill_len)
    runner = ExecutorchRunner(args.measure, spec, {args.cache_len: "decode"})
    generator = np.random.default_rng(0)
    for buffer in runner.cache_buffers:
        buffer[:] = generator.integers(-100, 100, buffer.shape) if buffer.dtype == np.int8 else 0.5
    loaded = _anonymous()
    prompt = [1] * recipe.shapes.prefill_len
    position = args.cache_len - 2 * len(prompt)
    decode = _fastest(runner, position, args.calls, lambda: runner.decode(5))
    after = _anonymous()
    prefill = _fastest(runner, position, max(3, args.calls // 5), lambda: runner.prefill(prompt))
    cache = spec.cache.total_bytes / 2**20
    print(
        f"{recipe.kv_cache:<8} decode {decode * 1e3:7.1f} ms, prefill of {len(prompt)} {prefill * 1e3:7.0f} ms, "
        f"cache {cache:5.0f} MiB, loaded {loaded - start:5.0f} MiB, decoding {after - loaded:5.0f} more, "
        f"prefill {_anonymous() - after:5.0f} more",
        flush=True,
    )


def _fastest(runner: ExecutorchRunner, position: int, calls: int, call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(calls + 1):
        runner.seek(position)
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _anonymous() -> float:
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="helium-1-preview-2b")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--cache-len", type=int, default=4096)
    parser.add_argument("--calls", type=int, default=15)
    parser.add_argument("--kv-cache", choices=CACHES, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    config = preset(args.preset)
    if config is None:
        parser.error(f"no preset {args.preset}")
    config = dataclasses.replace(config, num_hidden_layers=args.layers)
    plain = load_recipe("xnnpack-int4")
    shapes = plain.shapes.model_copy(update={"cache_len": args.cache_len})
    recipes = {kv: plain.model_copy(update={"kv_cache": kv, "shapes": shapes}) for kv in CACHES}
    if args.measure:
        measure(args, config, recipes[args.kv_cache])
        return
    with tempfile.TemporaryDirectory() as folder:
        for kv, recipe in recipes.items():
            made = Path(folder) / kv
            made.mkdir()
            store = cast("QuantizedStore", MadeUpStore(config, recipe.quantization))
            scales = made_up_scales(config) if kv == "int8" else None
            XnnpackTarget().build(store, recipe, made, lambda _: None, scales)
        for kv in CACHES * 2:
            own = [__file__, *sys.argv[1:], "--kv-cache", kv, "--measure", str(Path(folder) / kv / PROGRAM_FILE)]
            subprocess.run([sys.executable, *own], check=True)


if __name__ == "__main__":
    main()
