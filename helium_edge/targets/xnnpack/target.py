"""`XnnpackTarget`: checks, plans and writes the `.pte` of an XNNPACK bundle.

One file, `decoder.pte`, with the methods `prefill` and `decode`, and more that the recipe asks for: `decode_{S}`
for a shorter cache, since a static attention pays for every slot of its cache at every step, and `prefill_{T}` for
fewer tokens, since a call pays for all of its tokens, whatever they are. A classifier or encoder
becomes `classifier.pte` with the method `classify`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from helium_edge.bundle import Bundle, GraphEntry
from helium_edge.bundle.kv_scales import read_kv_scales
from helium_edge.config import ModelConfig
from helium_edge.errors import RecipeError
from helium_edge.model.kv_cache import KvScales
from helium_edge.model.weights import EMBEDDING
from helium_edge.pte.builder import ProgramBuilder
from helium_edge.pte.executorch_schema import EXECUTORCH_VERSION
from helium_edge.pte.xnnpack_schema import BACKEND
from helium_edge.quant import PlannedWeight, QuantizedStore, QuantizedWeight
from helium_edge.quant.activations import Arithmetic, PerToken, Processor
from helium_edge.recipe import Recipe
from helium_edge.runtime.executorch_library import load_runtime, require_executorch
from helium_edge.runtime.runner import CachedRunner
from helium_edge.runtime.text_runner import TextRunner
from helium_edge.signature import CLASSIFY, CacheSpec, GraphSignature, cache_spec, returned_bytes, text_signature
from helium_edge.targets.artifact import Artifact
from helium_edge.targets.base import TEXT_STEM, BuiltGraph, Target, layer_width
from helium_edge.targets.debug import DebugProgram
from helium_edge.targets.loading import program_methods, text_method, with_requirements
from helium_edge.targets.metadata import metadata_methods, text_metadata
from helium_edge.targets.summary import MethodSummary
from helium_edge.targets.xnnpack.method import add_decoder, add_text_method
from helium_edge.targets.xnnpack.options import XnnpackOptions
from helium_edge.targets.xnnpack.weights import Weights, WeightStore, stored_bytes

PROGRAM_FILE = "decoder.pte"
TEXT_FILE = f"{TEXT_STEM}.pte"

# Measured on 2 and 24 layers: the graph of a layer in one method, in memory while the program is written.
_GRAPH_BYTES_PER_LAYER = 128 << 10


@dataclass(frozen=True)
class _PlannedStore:
    """Stands for a store whose weights are not there yet."""

    plan: list[PlannedWeight]

    def get(self, name: str) -> QuantizedWeight | Tensor:
        raise AssertionError(name)

    def vector(self, name: str) -> Tensor:
        raise AssertionError(name)


class XnnpackTarget(Target):
    """Writes one `.pte` for ExecuTorch on CPUs: int4 and int8 weights with int8 activations, or float32."""

    name = "xnnpack"
    runtime = "executorch"
    libraries = ("flatbuffers", "torch")
    real = torch.float32
    can_localise = True
    timed_elsewhere = ""
    runs_on_android = True

    @override
    def check(self, config: ModelConfig, recipe: Recipe) -> None:
        for number, rule in enumerate(recipe.quantization.rules, start=1):
            for scheme in (rule.scheme, rule.fallback):
                if scheme is not None and not scheme.symmetric:
                    raise RecipeError(
                        f"recipe {recipe.name}: quantization rule {number} (match {rule.match!r}) asks for "
                        f"{scheme}; XNNPACK ignores the zero points of weights",
                        hint=f"use the symmetric int{scheme.bits}-g{scheme.group_size}",
                    )

    @override
    def min_runtime(self, config: ModelConfig, recipe: Recipe) -> str | None:
        return EXECUTORCH_VERSION

    @override
    def cache(self, config: ModelConfig, recipe: Recipe) -> CacheSpec:
        return cache_spec(config, recipe.shapes.cache_len, "append", batched=False, dtype=recipe.kv_cache)

    @override
    def plan(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> list[tuple[str, int]]:
        """The size is that of the program, made without its data."""
        scales = None
        if recipe.kv_cache == "int8":
            ones = torch.ones(config.num_key_value_heads, config.head_dim)
            scales = KvScales((ones,) * config.num_hidden_layers, (ones,) * config.num_hidden_layers)
        program, graphs = self._program(config, recipe, _PlannedStore(weights), lambda _: None, scales)
        return [(graphs[0].file, program.planned_size())]

    @override
    def memory(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> dict[str, int]:
        """Weights count once, as with the backend's weight cache switched on."""
        rows, slots = recipe.shapes.prefill_len, recipe.shapes.cache_len
        width = layer_width(config)
        # The embedding is read from the mapped file.
        stored = sum(sum(stored_bytes(weight)) for weight in weights if weight.name != EMBEDDING)
        if not config.task.has_cache:
            scores = 2 * config.num_attention_heads * rows * rows
            returned = returned_bytes([text_signature(config, rows)])
            return {"weights": stored, "cache": 0, "activations": 4 * (rows * width + scores) + returned}
        # Scores and their softmax, and the past keys transposed for the product.
        attention = 2 * config.num_attention_heads * (slots + rows) * rows + config.kv_size * slots
        if recipe.kv_cache != "float32":
            # Keys or values of one layer as float32.
            attention += config.kv_size * slots
        cache = self.cache(config, recipe)
        returned = returned_bytes(self._signatures(config, recipe).values())
        shorter = [*cache_buckets(recipe)[:-1], *(slots for _, slots in prefill_cache_buckets(recipe))]
        return {
            "weights": stored,
            "cache": cache.total_bytes + (cache.bytes_per_token * max(shorter, default=0)),
            "activations": 4 * (rows * width + attention) + returned,
        }

    @override
    def build_memory(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> int:
        """The graphs of all methods."""
        prefill = len(prefill_buckets(recipe)) + len(prefill_cache_buckets(recipe))
        methods = prefill + len(cache_buckets(recipe)) if config.task.has_cache else 1
        return methods * config.num_hidden_layers * _GRAPH_BYTES_PER_LAYER

    @override
    def build(
        self,
        store: QuantizedStore,
        recipe: Recipe,
        folder: Path,
        on_weight: Callable[[str], None],
        scales: KvScales | None = None,
    ) -> list[BuiltGraph]:
        program, graphs = self._program(store.config, recipe, store, on_weight, scales)
        program.write(folder / graphs[0].file)
        return with_requirements(folder, graphs)

    def _program(
        self,
        config: ModelConfig,
        recipe: Recipe,
        store: WeightStore,
        on_weight: Callable[[str], None],
        scales: KvScales | None,
    ) -> tuple[ProgramBuilder, list[BuiltGraph]]:
        """The program, described, and its graphs; its data is made when it is written."""
        program = ProgramBuilder()
        weights = Weights(config, store, program, on_weight, scales)
        if not config.task.has_cache:
            text = text_signature(config, recipe.shapes.prefill_len)
            program.metadata(text_metadata(config, text.tokens))
            add_text_method(program, CLASSIFY, text, weights)
            return program, [BuiltGraph(TEXT_FILE, CLASSIFY, text)]
        signatures = self._signatures(config, recipe)
        program.metadata(
            metadata_methods(
                config, recipe, cache_buckets(recipe), prefill_buckets(recipe), prefill_lengths(recipe)
            )
        )
        for name, signature in signatures.items():
            add_decoder(program, name, signature, weights, recipe.shapes.cache_len)
        return program, [BuiltGraph(PROGRAM_FILE, name, signature) for name, signature in signatures.items()]

    @override
    def debug(self, bundle: Bundle, *, static: bool = False) -> list[DebugProgram]:
        """Of several methods, the one for most tokens or with the full cache."""
        from helium_edge.targets.xnnpack.debug import XnnpackDebug

        del static  # all of its graphs are
        manifest = bundle.manifest
        config, scales = ModelConfig.from_file(bundle.path("config.json")), read_kv_scales(bundle)
        dtype = manifest.decoder_spec().cache.dtype
        programs: list[DebugProgram] = []
        for graph in manifest.graphs:
            phase = graph.phase
            if phase == "classify" or graph.method is None or graph.cache_len != manifest.cache_len:
                continue
            if phase == "prefill" and graph.tokens != manifest.prefill_len:
                continue
            width = manifest.prefill_len if phase == "prefill" else 1
            path = bundle.path(graph.file)
            programs.append(XnnpackDebug(path, graph.method, config, phase, width, scales, dtype))
        return programs

    @override
    def arithmetic(
        self, recipe: Recipe, plan: Sequence[PlannedWeight], processor: Processor | None = None
    ) -> Arithmetic:
        """The same on all processors, but for the last bit of where two codes meet."""
        del processor
        rules = {weight.name: PerToken() for weight in plan[1:] if weight.scheme is not None}
        return Arithmetic("int8 per token (XNNPACK qd8)", rules, half_cache=recipe.kv_cache == "float16")

    @override
    def check_can_run(self) -> None:
        require_executorch("running an ExecuTorch bundle")

    @override
    def load_runtime(self) -> None:
        load_runtime("running an ExecuTorch bundle")

    @override
    def open_decoder(self, bundle: Bundle, *, threads: int, static: bool) -> CachedRunner:
        del static  # all of its graphs are
        from helium_edge.runtime.executorch_runner import ExecutorchRunner

        methods = program_methods(bundle)
        spec = bundle.manifest.decoder_spec()
        return ExecutorchRunner(
            methods.path, spec, methods.decode, prefill=methods.prefill, shorter=methods.shorter, threads=threads
        )

    @override
    def open_text_runner(self, bundle: Bundle, graph: GraphEntry, *, threads: int) -> TextRunner:
        from helium_edge.runtime.executorch_text import ExecutorchTextRunner

        path, method = text_method(bundle, graph)
        return ExecutorchTextRunner(path, method, bundle.manifest.text_signature(), threads=threads)

    @override
    def summarize(self, bundle: Bundle) -> list[MethodSummary]:
        from helium_edge.runtime.xnnpack_program import read_xnnpack

        found = []
        for method in read_xnnpack(bundle.path(bundle.manifest.graphs[0].file)).methods.values():
            kernels = Counter(f"product {product.kernel}" for product in method.products)
            inside = {**kernels, "others": sum(method.nodes.values()) - len(method.products)}
            found.append(MethodSummary(method.name, BACKEND, method.delegates, inside, method.operators))
        return found

    @override
    def read_back(self, bundle: Bundle) -> Artifact:
        from helium_edge.targets.xnnpack.readback import XnnpackArtifact

        graphs = bundle.manifest.graphs
        methods = [graph.method for graph in graphs if graph.method is not None]
        config = ModelConfig.from_file(bundle.path("config.json"))
        dtype = "float32" if bundle.manifest.cache is None else bundle.manifest.cache.dtype
        return XnnpackArtifact(bundle.path(graphs[0].file), methods, config, read_kv_scales(bundle), dtype)

    def _signatures(self, config: ModelConfig, recipe: Recipe) -> dict[str, GraphSignature]:
        """Signature of each method by name."""
        cache = self.cache(config, recipe)

        def decode(slots: int) -> GraphSignature:
            full = GraphSignature("decode", 1, config.vocab_size, cache, recipe.logits, index_dtype="int64")
            return _with_slots(full, slots)

        def prefill(tokens: int) -> GraphSignature:
            return GraphSignature("prefill", tokens, config.vocab_size, cache, recipe.logits, index_dtype="int64")

        *narrower, widest = prefill_buckets(recipe)
        *shorter, full = cache_buckets(recipe)
        # First: hosts that know of one method for a number of tokens take the last, which has the full cache.
        return {
            **{
                f"prefill_{tokens}_{slots}": _with_slots(prefill(tokens), slots)
                for tokens, slots in prefill_cache_buckets(recipe)
            },
            "prefill": prefill(widest),
            **{f"prefill_{tokens}": prefill(tokens) for tokens in narrower},
            "decode": decode(full),
            **{f"decode_{slots}": decode(slots) for slots in shorter},
        }


TARGET = XnnpackTarget()


def prefill_buckets(recipe: Recipe) -> list[int]:
    """Tokens of the prefill methods, ascending; the last is the recipe's `prefill_len`, those above it go."""
    options = recipe.targets.options("xnnpack", XnnpackOptions)
    widest = recipe.shapes.prefill_len
    return [*(tokens for tokens in options.prefill_buckets if tokens < widest), widest]


def prefill_cache_buckets(recipe: Recipe) -> list[tuple[int, int]]:
    """Tokens and cache length of each prefill method with a shorter cache."""
    lengths = prefill_lengths(recipe)
    return [(tokens, slots) for tokens in prefill_buckets(recipe) for slots in lengths if 1 < tokens <= slots]


def prefill_lengths(recipe: Recipe) -> list[int]:
    """Shorter caches of prefill methods, ascending; those from the recipe's `cache_len` on go."""
    options = recipe.targets.options("xnnpack", XnnpackOptions)
    return [slots for slots in options.prefill_cache_buckets if slots < recipe.shapes.cache_len]


def cache_buckets(recipe: Recipe) -> list[int]:
    """Cache lengths of the decode methods, ascending; the last is the recipe's `cache_len`, those above it go."""
    options = recipe.targets.options("xnnpack", XnnpackOptions)
    full = recipe.shapes.cache_len
    return [*(slots for slots in options.cache_buckets if slots < full), full]


def _with_slots(graph: GraphSignature, slots: int) -> GraphSignature:
    return dataclasses.replace(graph, cache=dataclasses.replace(graph.cache, cache_len=slots))
