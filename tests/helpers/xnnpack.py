"""Exports a checkpoint to XNNPACK without a bundle around it, and the runners to compare."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from helium_edge.checkpoint import Checkpoint, open_checkpoint
from helium_edge.model.decoder import HeliumDecoder
from helium_edge.model.kv_cache import KvScales
from helium_edge.quant import QuantizedStore
from helium_edge.quant.kv_calibration import calibrate
from helium_edge.recipe import Recipe, load_recipe
from helium_edge.runtime.executorch_runner import ExecutorchRunner
from helium_edge.runtime.runner import Logits
from helium_edge.runtime.xnnpack_program import XnnpackProgram, read_xnnpack
from helium_edge.signature import DecoderSpec
from helium_edge.targets.base import BuiltGraph
from helium_edge.targets.xnnpack.target import XnnpackTarget
from tests.helpers.exports import random_tokens
from tests.helpers.xnnpack_lowered import StoreParts, load_exporter

PREFILL_LEN, CACHE_LEN = 8, 48
OUTSIDE = frozenset(
    {
        "executorch_prim::et_view",
        "aten::add", "aten::ge", "aten::eq", "aten::mul", "aten::_to_copy", "aten::index_select",
        "aten::ne", "aten::amax",
        "aten::embedding", "quantized_decomposed::embedding_byte", "quantized_decomposed::embedding_4bit",
    }
)  # fmt: skip
"""Operators that stand in front of a delegate: they turn token ids and positions into its inputs."""


@dataclass
class XnnpackExport:
    """A `.pte`, the store it came from, and what a host needs to run it."""

    path: Path
    checkpoint: Checkpoint
    store: QuantizedStore
    recipe: Recipe
    spec: DecoderSpec
    graphs: list[BuiltGraph]
    planned_bytes: int
    scales: KvScales | None = None

    @property
    def decode(self) -> dict[int, str]:
        """Name of each decode method by the length of its cache."""
        graphs = [graph for graph in self.graphs if graph.signature.phase == "decode"]
        return {graph.signature.cache.cache_len: str(graph.method) for graph in graphs}

    @property
    def prefill(self) -> dict[int, str]:
        """Name of each prefill method with the full cache by its tokens."""
        full = self.spec.cache.cache_len
        return {width: name for (width, slots), name in self._prefill_methods().items() if slots == full}

    @property
    def shorter(self) -> dict[tuple[int, int], str]:
        """Names of the other prefill methods by tokens and length of the cache."""
        full = self.spec.cache.cache_len
        return {key: name for key, name in self._prefill_methods().items() if key[1] < full}

    def _prefill_methods(self) -> dict[tuple[int, int], str]:
        graphs = [graph for graph in self.graphs if graph.signature.phase == "prefill"]
        return {
            (int(graph.signature.token_dim), graph.signature.cache.cache_len): str(graph.method)
            for graph in graphs
        }

    def runner(self, **options: Any) -> ExecutorchRunner:
        """The program on ExecuTorch."""
        return ExecutorchRunner(
            self.path, self.spec, self.decode, prefill=self.prefill, shorter=self.shorter, **options
        )

    def program(self) -> XnnpackProgram:
        """What is in the file."""
        return read_xnnpack(self.path)

    def decoder(self, *, emulated: bool) -> HeliumDecoder:
        """Our torch decoder with the same weights, in float32 or with activations quantized as XNNPACK does."""
        load_exporter()
        parts = StoreParts(self.store) if emulated else None
        return HeliumDecoder(self.checkpoint.config, self.store, self.spec.cache.cache_len, parts)


def xnnpack_recipe(name: str, **changes: Any) -> Recipe:
    """A shipped recipe at small shapes; `shapes`, `xnnpack`, `rules` and `logits` replace what it says."""
    data = load_recipe(name).model_dump(mode="json")
    # What is tested is graphs: integers that need no text, unless a test asks for others.
    data["quantization"]["method"] = changes.pop("method", "mse")
    data["shapes"] = {"prefill_len": PREFILL_LEN, "cache_len": CACHE_LEN} | changes.pop("shapes", {})
    data["targets"]["xnnpack"] |= changes.pop("xnnpack", {})
    if "rules" in changes:
        data["quantization"]["rules"] = changes.pop("rules")
    return Recipe.model_validate_json(json.dumps(data | changes))


@contextlib.contextmanager
def pieces_of(slots: int, kv_size: int) -> Iterator[None]:
    """Let decode methods that are built meanwhile read caches in pieces of some slots, as large models do."""
    with mock.patch("helium_edge.targets.xnnpack.decoder.PIECE_BYTES", 4 * kv_size * slots):
        yield


def export_xnnpack(source: Path | str, recipe: Recipe, folder: Path) -> XnnpackExport:
    """Quantize and build into `folder`."""
    checkpoint = open_checkpoint(str(source))
    config = checkpoint.config
    folder.mkdir(parents=True)
    store = QuantizedStore(checkpoint, recipe.quantization, folder.with_name(f"{folder.name}.store"))
    target = XnnpackTarget()
    target.check(config, recipe)
    scales = None
    if recipe.kv_cache == "int8":
        texts = [random_tokens(64, config.vocab_size, seed) for seed in range(2)]
        scales = calibrate(store, texts, texts).scales
    ((file, planned),) = target.plan(config, recipe, store.plan)
    graphs = target.build(store, recipe, folder, lambda _: None, scales)
    spec = DecoderSpec(config.vocab_size, target.cache(config, recipe), recipe.shapes.prefill_len, recipe.logits)
    return XnnpackExport(folder / file, checkpoint, store, recipe, spec, graphs, planned, scales)


def rms_error(found: Logits, expected: Logits) -> float:
    """rms(difference) / rms(expected); NaN when anything is."""
    difference = found.astype(np.float64) - expected
    return float(np.sqrt(np.mean(difference**2) / np.mean(np.square(expected, dtype=np.float64))))
