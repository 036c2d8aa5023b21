"""`ToyTarget`: one safetensors file of codes and scales, run by the decoder in torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from helium_edge.bundle import Bundle, GraphEntry
from helium_edge.config import ModelConfig
from helium_edge.errors import BundleError, RecipeError, UsageError
from helium_edge.model.decoder import HeliumDecoder
from helium_edge.model.kv_cache import KvScales
from helium_edge.model.weights import vector_names
from helium_edge.quant import PlannedWeight, QuantizedStore, QuantizedWeight
from helium_edge.quant.activations import Arithmetic, Processor
from helium_edge.recipe import Recipe
from helium_edge.runtime.runner import CachedRunner, Logits, check_tokens
from helium_edge.runtime.text_runner import TextRunner
from helium_edge.signature import CacheSpec, GraphSignature, cache_spec
from helium_edge.targets.artifact import Artifact, StoredCodes, WeightDifference
from helium_edge.targets.base import BuiltGraph
from helium_edge.targets.debug import DebugProgram
from helium_edge.targets.summary import MethodSummary
from tests.toy_target.options import Options

FILE = "toy.safetensors"


class ToyTarget:
    """Writes symmetric integers or float32 for torch; the cache is appended to by the host."""

    name = "toy"
    runtime = "torch"
    libraries = ("safetensors",)
    real = torch.float32
    can_localise = False
    timed_elsewhere = ""
    runs_on_android = False

    def check(self, config: ModelConfig, recipe: Recipe) -> None:
        if not config.task.has_cache or recipe.kv_cache != "float32":
            raise RecipeError(f"recipe {recipe.name}: target toy takes language models with a float32 cache")

    def min_runtime(self, config: ModelConfig, recipe: Recipe) -> str | None:
        return None

    def cache(self, config: ModelConfig, recipe: Recipe) -> CacheSpec:
        return cache_spec(config, recipe.shapes.cache_len, "append", batched=False)

    def plan(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> list[tuple[str, int]]:
        return [
            (
                FILE,
                sum(weight.shape[0] * weight.shape[1] * (4 if weight.scheme is None else 1) for weight in weights),
            )
        ]

    def memory(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> dict[str, int]:
        real = sum(4 * weight.shape[0] * weight.shape[1] for weight in weights)
        return {"weights": real, "cache": self.cache(config, recipe).total_bytes, "activations": 0}

    def build_memory(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> int:
        return self.plan(config, recipe, weights)[0][1]

    def build(
        self,
        store: QuantizedStore,
        recipe: Recipe,
        folder: Path,
        on_weight: Callable[[str], None],
        scales: KvScales | None = None,
    ) -> list[BuiltGraph]:
        tensors = {name: store.vector(name) for name in vector_names(store.config)}
        for name in store.names:
            weight = store.get(name)
            on_weight(name)
            if isinstance(weight, QuantizedWeight):
                tensors |= {name: weight.codes, f"{name}.scales": weight.scales.contiguous()}
            else:
                tensors[name] = weight
        if recipe.targets.options(self.name, Options).order == "backward":
            tensors = dict(reversed(tensors.items()))
        save_file(tensors, folder / FILE)
        cache = self.cache(store.config, recipe)
        return [BuiltGraph(FILE, None, GraphSignature("any", None, store.config.vocab_size, cache))]

    def debug(self, bundle: Bundle, *, static: bool = False) -> list[DebugProgram]:
        raise UsageError(f"{bundle.folder.name}: bundles of the target toy cannot be localised")

    def arithmetic(
        self, recipe: Recipe, plan: Sequence[PlannedWeight], processor: Processor | None = None
    ) -> Arithmetic:
        return Arithmetic("float32", {})

    def check_can_run(self) -> None:
        """Torch is always there."""

    def load_runtime(self) -> None:
        """Likewise."""

    def open_decoder(self, bundle: Bundle, *, threads: int, static: bool) -> CachedRunner:
        return ToyRunner(ToyArtifact(bundle), bundle.manifest.cache_len)

    def open_text_runner(self, bundle: Bundle, graph: GraphEntry, *, threads: int) -> TextRunner:
        raise BundleError(f"{bundle.folder.name}: target toy has no classifiers")

    def summarize(self, bundle: Bundle) -> list[MethodSummary]:
        return []

    def read_back(self, bundle: Bundle) -> Artifact:
        return ToyArtifact(bundle)


class ToyArtifact(Artifact):
    """Weights by name, as the file has them."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(ModelConfig.from_file(bundle.path("config.json")))
        self._file: Any = safe_open(bundle.path(FILE), "pt")

    def matrix(self, name: str) -> StoredCodes | Tensor:
        found: Tensor = self._file.get_tensor(name)
        if found.dtype != torch.int8:
            return found
        scales: Tensor = self._file.get_tensor(f"{name}.scales")
        return StoredCodes(4 if scales.shape[1] > 1 else 8, found, scales)

    def vector(self, name: str) -> Tensor:
        found: Tensor = self._file.get_tensor(name)
        return found

    def differences(self) -> list[WeightDifference]:
        return []


class ToyRunner:
    """The decoder over a cache of its own."""

    def __init__(self, weights: ToyArtifact, cache_len: int) -> None:
        self._decoder = HeliumDecoder(weights.config, weights, cache_len)
        config = weights.config
        self.vocab_size, self.cache_len, self.position = config.vocab_size, cache_len, 0
        shape = (config.num_key_value_heads, cache_len, config.head_dim)
        self._past = [torch.zeros(shape) for _ in range(2 * config.num_hidden_layers)]

    @property
    def cache_buffers(self) -> list[np.ndarray[Any, Any]]:
        return [buffer.numpy() for buffer in self._past]

    def reset(self) -> None:
        self.position = 0

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int]) -> Logits:
        check_tokens(tokens, position=self.position, cache_len=self.cache_len, vocab_size=self.vocab_size)
        logits, new = self._decoder(torch.tensor([list(tokens)]), torch.tensor([self.position]), self._past)
        for buffer, rows in zip(self._past, new, strict=True):
            buffer[:, self.position : self.position + len(tokens)] = rows
        self.position += len(tokens)
        last: Logits = logits[0, -1:].numpy()
        return last

    def decode(self, token: int) -> Logits:
        row: Logits = self.prefill([token])[0]
        return row


TARGET = ToyTarget()
