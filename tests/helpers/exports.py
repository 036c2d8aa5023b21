"""Exports graphs of a checkpoint without a bundle around them, and the runners to compare them with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.model.decoder import HeliumDecoder
from helium_edge.quant import QuantizedStore
from helium_edge.recipe import Recipe, load_recipe
from helium_edge.runtime.onnx_runner import OnnxRunner
from helium_edge.runtime.runner import Logits, Runner
from helium_edge.runtime.torch_runner import TorchRunner
from helium_edge.signature import DecoderSpec
from helium_edge.targets import load_target

PREFILL_LEN, CACHE_LEN = 8, 48


def small_recipe(name: str, **changes: Any) -> Recipe:
    """A shipped recipe at small shapes; `onnx`, `quantization`, `logits` replace its sections or their keys."""
    data = load_recipe(name).model_dump(mode="json")
    # What is tested is graphs: integers that need no text, unless a test asks for others.
    data["quantization"]["method"] = changes.pop("method", "mse")
    data["shapes"] = {"prefill_len": PREFILL_LEN, "cache_len": CACHE_LEN} | changes.pop("shapes", {})
    data["targets"]["onnx"] |= changes.pop("onnx", {})
    if "rules" in changes:
        data["quantization"]["rules"] = changes.pop("rules")
    data |= changes
    return Recipe.model_validate_json(json.dumps(data))


@dataclass
class Exported:
    """Graphs in a folder, the store they came from, and what a host needs to run them."""

    folder: Path
    checkpoint: Checkpoint
    store: QuantizedStore
    recipe: Recipe
    spec: DecoderSpec

    def runner(self, *, static: bool = False, **session_config: str) -> OnnxRunner:
        """The exported graphs on ONNX Runtime."""
        files = {"prefill": "prefill.onnx", "decode": "decode.onnx", "any": "decoder.onnx"}
        config = {key.replace("__", "."): value for key, value in session_config.items()}
        return OnnxRunner(self.folder, files, self.spec, threads=2, static=static, session_config=config)

    def torch_runner(self) -> TorchRunner:
        """Our torch decoder carrying the same dequantized weights."""
        cache_len = self.spec.cache.cache_len
        return TorchRunner(HeliumDecoder(self.checkpoint.config, self.store, cache_len), PREFILL_LEN)


def export_graphs(source: Path | str, recipe: Recipe, folder: Path) -> Exported:
    """Quantize and build into `folder`."""
    checkpoint = open_checkpoint(str(source))
    folder.mkdir(parents=True)
    store = QuantizedStore(checkpoint, recipe.quantization, folder.with_name(folder.name + ".store"))
    target = load_target("onnx")
    target.check(checkpoint.config, recipe)
    target.build(store, recipe, folder, lambda _: None)
    cache = target.cache(checkpoint.config, recipe)
    spec = DecoderSpec(checkpoint.config.vocab_size, cache, recipe.shapes.prefill_len, recipe.logits)
    return Exported(folder, checkpoint, store, recipe, spec)


def random_tokens(count: int, vocab_size: int, seed: int = 0) -> list[int]:
    """Token ids that start with BOS."""
    rng = np.random.default_rng(seed)
    return [1, *rng.integers(4, vocab_size, count - 1).tolist()]


def roll(runner: Runner, tokens: list[int], chunks: list[int], steps: int) -> Logits:
    """Prefill in the given chunk lengths, then decode `steps` tokens; logits after each call, (calls, V)."""
    runner.reset()
    rows, done = [], 0
    for length in chunks:
        rows.append(runner.prefill(tokens[done : done + length])[-1])
        done += length
    rows += [runner.decode(token) for token in tokens[done : done + steps]]
    return np.stack(rows)


def relative_error(found: Logits, expected: Logits) -> float:
    """max |difference| over rms(expected)."""
    rms = float(np.sqrt(np.mean(np.square(expected, dtype=np.float64))))
    return float(np.abs(found.astype(np.float64) - expected).max()) / rms
