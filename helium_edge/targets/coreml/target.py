"""`CoremlTarget`: checks, plans and writes the `.pte` of a CoreML bundle.

One file, `decoder.pte`, with the methods `prefill` and `decode`. A model that is no language model becomes
`classifier.pte` with the method `classify`.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from typing_extensions import override

from helium_edge.bundle import Bundle, GraphEntry
from helium_edge.config import ModelConfig
from helium_edge.errors import RecipeError, UsageError
from helium_edge.mlpackage.ios import BLOCKS, OLDEST, SHARING
from helium_edge.model.kv_cache import KvScales
from helium_edge.pte.executorch_schema import EXECUTORCH_VERSION
from helium_edge.quant import PlannedWeight, QuantizedStore
from helium_edge.quant.activations import Arithmetic, Processor
from helium_edge.recipe import Recipe
from helium_edge.runtime.coreml_program import BACKEND, read_coreml, require_coremltools
from helium_edge.runtime.quiet import quiet
from helium_edge.runtime.runner import CachedRunner
from helium_edge.runtime.text_runner import TextRunner
from helium_edge.signature import (
    CacheSpec,
    GraphSignature,
    Phase,
    TextSignature,
    cache_spec,
    returned_bytes,
    text_signature,
)
from helium_edge.targets.artifact import Artifact
from helium_edge.targets.base import TEXT_STEM, BuiltGraph, Target, layer_width
from helium_edge.targets.coreml.options import CoremlOptions
from helium_edge.targets.debug import DebugProgram
from helium_edge.targets.loading import program_methods, text_method, with_requirements
from helium_edge.targets.metadata import metadata_methods, text_metadata
from helium_edge.targets.summary import MethodSummary

PROGRAM_FILE = "decoder.pte"
TEXT_FILE = f"{TEXT_STEM}.pte"


_PHASES: tuple[Phase, ...] = ("prefill", "decode")

# Measured on 2, 6 and 24 layers, for each method.
_GRAPH_BYTES_PER_LAYER = 15_000
_GRAPH_BYTES = 10_000


class CoremlTarget(Target):
    """Writes one `.pte` whose methods are CoreML functions in float16."""

    name = "coreml"
    runtime = "executorch"
    libraries = ("coremltools", "flatbuffers", "protobuf", "torch")
    real = torch.float16
    can_localise = False
    timed_elsewhere = "measure on an Apple device: docs/ios.md"
    runs_on_android = False

    @override
    def check(self, config: ModelConfig, recipe: Recipe) -> None:
        """Also refuses to start without the package that `build` needs.

        Raises:
            MissingDependencyError: coremltools is not installed.
        """
        if recipe.kv_cache == "int8":
            raise RecipeError(
                f"recipe {recipe.name}: target coreml has no int8 KV cache but float16: leave kv_cache out"
            )
        require_coremltools("a CoreML export")
        if _options(recipe).ios == OLDEST and _has_blocks(recipe):
            raise RecipeError(
                f"recipe {recipe.name}: targets.coreml.ios is {OLDEST}, and int4 weights need {BLOCKS}",
                hint=f"set ios: {BLOCKS}, or leave it out",
            )

    @override
    def min_runtime(self, config: ModelConfig, recipe: Recipe) -> str | None:
        return EXECUTORCH_VERSION

    @override
    def cache(self, config: ModelConfig, recipe: Recipe) -> CacheSpec:
        """Float16, since CoreML would convert a float32 cache whole at every step."""
        spec = cache_spec(config, recipe.shapes.cache_len, "append", batched=False)
        return dataclasses.replace(spec, dtype="float16")

    @override
    def plan(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> list[tuple[str, int]]:
        is_decoder = config.task.has_cache
        methods = len(_PHASES) if is_decoder else 1
        copies = 1 if deployment_target(recipe) >= SHARING else methods
        slots, tokens = recipe.shapes.cache_len, recipe.shapes.prefill_len
        # RoPE, and the masks over the cache and over the new tokens.
        group = config.num_attention_heads // config.num_key_value_heads
        tables = 2 * (config.head_dim + 4) * slots + 2 * group * tokens**2
        graphs = methods * (_GRAPH_BYTES_PER_LAYER * config.num_hidden_layers + _GRAPH_BYTES)
        stored = sum(_stored_bytes(weight) for weight in weights)
        return [(PROGRAM_FILE if is_decoder else TEXT_FILE, copies * (stored + tables) + graphs)]

    @override
    def memory(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> dict[str, int]:
        """What Apple's engines keep of the weights is theirs, and not measured here."""
        rows = recipe.shapes.prefill_len
        width = layer_width(config)
        stored = sum(_stored_bytes(weight) for weight in weights)
        if not config.task.has_cache:
            scores = config.num_attention_heads * rows
            returned = returned_bytes([text_signature(config, rows)])
            return {"weights": stored, "cache": 0, "activations": 2 * rows * (width + 2 * scores) + returned}
        scores = config.num_attention_heads * (recipe.shapes.cache_len + rows)
        returned = returned_bytes(self._signatures(config, recipe))
        return {
            "weights": stored,
            "cache": self.cache(config, recipe).total_bytes,
            "activations": 2 * rows * (width + 2 * scores) + returned,
        }

    def _signatures(self, config: ModelConfig, recipe: Recipe) -> list[GraphSignature]:
        cache = self.cache(config, recipe)
        return [
            GraphSignature(phase, tokens, config.vocab_size, cache, recipe.logits, index_dtype="int64")
            for phase, tokens in zip(_PHASES, (recipe.shapes.prefill_len, 1), strict=True)
        ]

    @override
    def build_memory(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> int:
        """Weights are written one by one."""
        del config, recipe, weights
        return 0

    @override
    def build(
        self,
        store: QuantizedStore,
        recipe: Recipe,
        folder: Path,
        on_weight: Callable[[str], None],
        scales: KvScales | None = None,
    ) -> list[BuiltGraph]:
        """Write one program, with a method for each phase.

        Raises:
            CheckpointError: A weight cannot be held in float16.
        """
        with quiet():  # coremltools takes seconds, and writes what it misses
            from helium_edge.targets.coreml.export import write_program

        ios, shapes = deployment_target(recipe), recipe.shapes
        signatures: list[GraphSignature | TextSignature]
        if not store.config.task.has_cache:
            file, signatures = TEXT_FILE, [text_signature(store.config, shapes.prefill_len)]
            facts = text_metadata(store.config, shapes.prefill_len)
        else:
            file, signatures = PROGRAM_FILE, [*self._signatures(store.config, recipe)]
            facts = metadata_methods(store.config, recipe, [shapes.cache_len], [shapes.prefill_len], [])
        write_program(store, signatures, facts, ios, folder / file, on_weight)
        return with_requirements(folder, [BuiltGraph(file, each.phase, each) for each in signatures])

    @override
    def debug(self, bundle: Bundle, *, static: bool = False) -> list[DebugProgram]:
        """Apple's kernels do not run here, so that there is nothing to look into."""
        del static
        raise UsageError(f"{bundle.folder.name}: bundles of the target coreml cannot be localised")

    @override
    def arithmetic(
        self, recipe: Recipe, plan: Sequence[PlannedWeight], processor: Processor | None = None
    ) -> Arithmetic:
        """An interpreter rounds to float16 after each operation."""
        return Arithmetic("float16", {}, exact=False)

    @override
    def check_can_run(self) -> None:
        require_coremltools("evaluating a CoreML bundle")

    @override
    def load_runtime(self) -> None:
        import helium_edge.runtime.coreml_runner  # noqa: F401

    @override
    def open_decoder(self, bundle: Bundle, *, threads: int, static: bool) -> CachedRunner:
        del threads, static  # evaluated by an interpreter
        from helium_edge.runtime.coreml_runner import CoremlRunner

        return CoremlRunner(program_methods(bundle).path, bundle.manifest.decoder_spec())

    @override
    def open_text_runner(self, bundle: Bundle, graph: GraphEntry, *, threads: int) -> TextRunner:
        del threads
        from helium_edge.runtime.coreml_text import CoremlTextRunner

        return CoremlTextRunner(*text_method(bundle, graph), bundle.manifest.text_signature())

    @override
    def summarize(self, bundle: Bundle) -> list[MethodSummary]:
        """Reading refuses a method that is not exactly one delegate."""
        found = []
        for method in read_coreml(bundle.path(bundle.manifest.graphs[0].file)).values():
            kinds = Counter(operation.op_type for operation in method.function.operations)
            found.append(MethodSummary(method.name, BACKEND, 1, dict(kinds.most_common()), ()))
        return found

    @override
    def read_back(self, bundle: Bundle) -> Artifact:
        from helium_edge.targets.coreml.readback import CoremlArtifact

        config = ModelConfig.from_file(bundle.path("config.json"))
        return CoremlArtifact(bundle.path(bundle.manifest.graphs[0].file), config)


TARGET = CoremlTarget()


def deployment_target(recipe: Recipe) -> int:
    """The oldest iOS that runs what a recipe asks for: as it says, else 18 for int4 weights and 17 without."""
    chosen = _options(recipe).ios
    if chosen is not None:
        return chosen
    return BLOCKS if _has_blocks(recipe) else OLDEST


def _options(recipe: Recipe) -> CoremlOptions:
    return recipe.targets.options("coreml", CoremlOptions)


def _has_blocks(recipe: Recipe) -> bool:
    """Whether a weight may have a scale per block; a rule that the model does not use counts as well."""
    schemes = [scheme for rule in recipe.quantization.rules for scheme in (rule.scheme, rule.fallback)]
    return any(scheme is not None and scheme.group_size is not None for scheme in schemes)


def _stored_bytes(weight: PlannedWeight) -> int:
    """Bytes in the package: packed codes and float16 scales, or float16 weights."""
    rows, columns = weight.shape
    if weight.scheme is None:
        return 2 * rows * columns
    groups = columns // (weight.scheme.group_size or columns)
    points = 0 if weight.scheme.symmetric else rows * groups // 2
    return rows * columns * weight.scheme.bits // 8 + 2 * rows * groups + points
