"""`OnnxTarget`: checks, plans and writes the ONNX files of a bundle.

Files (design: graphs over one `weights.bin`): `prefill.onnx` and `decode.onnx` with static shapes, `decoder.onnx`
with a symbolic token count for runtimes that then pack weights once, `genai.onnx` for onnxruntime-genai. A
classifier or encoder becomes `classifier.onnx` alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import onnx_ir as ir
import torch
from typing_extensions import override

from helium_edge.bundle import GENAI_GRAPH, Bundle, GraphEntry
from helium_edge.bundle.kv_scales import read_kv_scales
from helium_edge.config import ModelConfig
from helium_edge.documents import first_line
from helium_edge.errors import ConfigError, HeliumEdgeError, RecipeError
from helium_edge.model.kv_cache import KvScales
from helium_edge.model.weights import EMBEDDING, HEAD
from helium_edge.quant import PlannedWeight, QuantizedStore, plan_weights
from helium_edge.quant.activations import ActivationRule, Arithmetic, PerBlock, PerToken, Processor, this_processor
from helium_edge.recipe import Recipe
from helium_edge.runtime.runner import CachedRunner
from helium_edge.runtime.text_runner import TextRunner
from helium_edge.signature import CacheSpec, GraphSignature, Phase, TextSignature, cache_spec, text_signature
from helium_edge.targets.artifact import Artifact
from helium_edge.targets.base import TEXT_STEM, BuiltGraph, Target, layer_width
from helium_edge.targets.debug import DebugProgram
from helium_edge.targets.onnx.decoder import build_decoder, build_text_graph
from helium_edge.targets.onnx.options import OnnxOptions
from helium_edge.targets.onnx.packed import PackedModel, Packer
from helium_edge.targets.onnx.weights_file import ALIGNMENT, WEIGHTS_FILE, WeightsFile
from helium_edge.targets.summary import MethodSummary
from helium_edge.tasks import SCORE

GRAPH_FILES: dict[Phase, str] = {
    "prefill": "prefill.onnx",
    "decode": "decode.onnx",
    "any": "decoder.onnx",
}
TEXT_FILE = f"{TEXT_STEM}.onnx"

# Measured: 11 to 13 kB per decoder layer, in either dialect, and little else.
_GRAPH_BYTES_PER_LAYER = 13_000
_MIN_BLOCK = 16

INT8_CACHE_VERSION = "1.27"
"""The first onnxruntime whose CPU kernel of GroupQueryAttention takes an int8 cache; measured on 1.24 to 1.32."""

INT8_MATRIX_VERSION = "1.22"
"""The first onnxruntime whose MatMulNBits takes 8 bits; measured on 1.19 to 1.23."""


class OnnxTarget(Target):
    """Writes ONNX for ONNX Runtime (contrib dialect) or for any runtime of opset 23 (portable dialect)."""

    name = "onnx"
    runtime = "onnxruntime"
    libraries = ("onnx", "onnx-ir", "onnxruntime")
    real = torch.float32
    can_localise = True
    timed_elsewhere = ""
    runs_on_android = True

    @override
    def check(self, config: ModelConfig, recipe: Recipe) -> None:
        if config.hidden_size % _MIN_BLOCK or config.head_dim % 8:
            raise ConfigError(
                f"target onnx: hidden_size {config.hidden_size} and head_dim {config.head_dim} are not supported; "
                f"they must be multiples of {_MIN_BLOCK} and 8"
            )
        if recipe.kv_cache != "float32" and _options(recipe).dialect != "contrib":
            why = (
                "no standard operator takes an int8 cache"
                if recipe.kv_cache == "int8"
                else "standard operators would convert the whole cache to float32 at every step"
            )
            raise RecipeError(
                f"recipe {recipe.name}: kv_cache {recipe.kv_cache} needs the dialect contrib: {why}",
                hint="targets.onnx.dialect: contrib, or kv_cache: float32",
            )
        _check_min_runtime(config, recipe)

    @override
    def min_runtime(self, config: ModelConfig, recipe: Recipe) -> str | None:
        """Measured by tests/integration/test_oldest_runtimes.py."""
        return INT8_CACHE_VERSION if recipe.kv_cache == "int8" else _options(recipe).min_runtime

    @override
    def cache(self, config: ModelConfig, recipe: Recipe) -> CacheSpec:
        update = "in_place" if _options(recipe).dialect == "contrib" else "append"
        return cache_spec(
            config,
            recipe.shapes.cache_len,
            "in_place" if update == "in_place" else "append",
            dtype=recipe.kv_cache,
        )

    @override
    def plan(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> list[tuple[str, int]]:
        names = self._signatures(config, recipe)
        graph = _GRAPH_BYTES_PER_LAYER * config.num_hidden_layers
        padding = ALIGNMENT * 2 * len(weights)
        tables = 4 * config.head_dim * recipe.shapes.cache_len
        if recipe.kv_cache == "int8":
            # Scales of each layer's keys and values, each padded to a page.
            tables += 2 * config.num_hidden_layers * (4 * config.kv_size + ALIGNMENT)
        total = sum(weight.nbytes for weight in weights) + padding + tables
        return [(name, graph) for name in names] + [(WEIGHTS_FILE, total)]

    @override
    def memory(self, config: ModelConfig, recipe: Recipe, weights: list[PlannedWeight]) -> dict[str, int]:
        rows = recipe.shapes.prefill_len
        width = layer_width(config)
        packed = sum(_packed_bytes(weight, _options(recipe)) for weight in weights)
        if not config.task.has_cache:
            scores = config.num_attention_heads * rows * rows
            return {"weights": packed, "cache": 0, "activations": 4 * (rows * width + scores)}
        head_rows = rows if recipe.logits == "all" else 1
        return {
            "weights": packed,
            "cache": self.cache(config, recipe).total_bytes,
            "activations": 4 * (rows * width + head_rows * config.vocab_size),
        }

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
        options = _options(recipe)
        with WeightsFile(folder) as weights:
            model = Packer(store, weights, options, on_weight).pack(recipe.shapes.cache_len, scales)
        signatures = self._signatures(store.config, recipe)
        operators = {
            file: _save(store.config, model, signature, options, folder / file)
            for file, signature in signatures.items()
        }
        return [
            BuiltGraph(file, None, signature, operators[file])
            for file, signature in signatures.items()
            if not signature.genai
        ]

    def _signatures(self, config: ModelConfig, recipe: Recipe) -> dict[str, GraphSignature | TextSignature]:
        """Signature of each graph by file."""
        if not config.task.has_cache:
            return {TEXT_FILE: text_signature(config, recipe.shapes.prefill_len)}
        graph = functools.partial(
            GraphSignature, vocab_size=config.vocab_size, cache=self.cache(config, recipe), logits=recipe.logits
        )
        tokens: dict[Phase, int | None] = {"prefill": recipe.shapes.prefill_len, "decode": 1, "any": None}
        found: dict[str, GraphSignature | TextSignature] = {
            file: graph(phase, tokens[phase]) for phase, file in GRAPH_FILES.items()
        }
        return found | ({GENAI_GRAPH: graph("any", None, genai=True)} if _has_genai(recipe) else {})

    @override
    def debug(self, bundle: Bundle, *, static: bool = False) -> list[DebugProgram]:
        from helium_edge.targets.onnx.debug import OnnxDebug

        manifest = bundle.manifest
        files, cache = manifest.graph_files(), manifest.decoder_spec().cache
        config, scales = ModelConfig.from_file(bundle.path("config.json")), read_kv_scales(bundle)

        def program(phase: Phase, phases: tuple[Phase, ...], width: int | None) -> DebugProgram:
            return OnnxDebug(bundle.folder, files[phase], config, cache, phases, width, scales)

        if not static and "any" in files:
            return [program("any", ("prefill", "decode"), None)]
        return [program("prefill", ("prefill",), manifest.prefill_len), program("decode", ("decode",), 1)]

    @override
    def arithmetic(
        self, recipe: Recipe, plan: Sequence[PlannedWeight], processor: Processor | None = None
    ) -> Arithmetic:
        """MatMulNBits at level 4 rounds activations, all else is float32.

        On x86, and of weights with zero points or of 8 bits on ARM64, it does so by block; symmetric int4 weights
        go to KleidiAI on ARM64, which has one scale for a token. Without the dot product nothing is rounded there.
        Attention over a float16 cache is float16.
        """
        options, kind = _options(recipe), processor or this_processor()
        rules: dict[str, ActivationRule] = {}
        for weight in () if kind == "arm64 without dot product" else plan[1:]:
            if weight.scheme is None:
                continue
            level = options.head_accuracy_level if weight.name in (HEAD, SCORE) else options.accuracy_level
            columns = weight.shape[1]
            block = weight.scheme.group_size or options.int8_block(columns)
            # In the portable dialect ONNX Runtime itself makes MatMulNBits of blockwise weights, of 4 and of 8
            # bits, at level 4; where blocks do not divide K, there is one for the whole row, which it leaves
            # alone.
            fused = options.dialect == "contrib" or columns % block == 0
            if fused and (level == 4 or options.dialect != "contrib"):
                kleidi = kind == "arm64" and weight.scheme.bits == 4 and weight.scheme.symmetric
                rules[weight.name] = PerToken(halves_away=True) if kleidi else PerBlock(block)
        ways = " and ".join(dict.fromkeys(str(rule) for rule in rules.values()))
        name = f"int8 {ways} (MatMulNBits, accuracy_level 4)" if rules else "float32"
        if recipe.kv_cache != "float16":
            return Arithmetic(name, rules, exact=kind is not None or not rules)
        # Its sums are float32 on x86, and float16 on ARM64.
        exact = kind == "x86-64"
        return Arithmetic(f"{name}, attention in float16", rules, exact, half_cache=True, half_attention=True)

    @override
    def check_can_run(self) -> None:
        """ONNX Runtime is always there."""

    @override
    def load_runtime(self) -> None:
        import helium_edge.runtime.onnx_runner  # noqa: F401

    @override
    def open_decoder(self, bundle: Bundle, *, threads: int, static: bool) -> CachedRunner:
        from helium_edge.runtime.onnx_runner import OnnxRunner

        manifest = bundle.manifest
        files, spec = manifest.graph_files(), manifest.decoder_spec()
        return OnnxRunner(bundle.folder, files, spec, threads=threads, static=static)

    def open_rows(self, bundle: Bundle, *, threads: int) -> CachedRunner:
        """Load the graphs of a language model so that they return every row of a prefill where they can."""
        from helium_edge.runtime.onnx_rows import OnnxRowsRunner

        files, spec = bundle.manifest.graph_files(), bundle.manifest.decoder_spec()
        if spec.logits == "all" or "any" not in files:
            return self.open_decoder(bundle, threads=threads, static=False)
        return OnnxRowsRunner(bundle.folder, files, spec, threads=threads)

    @override
    def open_text_runner(self, bundle: Bundle, graph: GraphEntry, *, threads: int) -> TextRunner:
        from helium_edge.runtime.onnx_text import OnnxTextRunner

        return OnnxTextRunner(bundle.folder, graph.file, bundle.manifest.text_signature(), threads=threads)

    @override
    def summarize(self, bundle: Bundle) -> list[MethodSummary]:
        """Viewers of ONNX show its graphs."""
        del bundle
        return []

    @override
    def read_back(self, bundle: Bundle) -> Artifact:
        from helium_edge.targets.onnx.readback import OnnxArtifact

        manifest = bundle.manifest
        contract = [graph.file for graph in manifest.graphs]
        others = [entry.path for entry in manifest.files if entry.path.endswith(".onnx")]
        files = list(dict.fromkeys([*contract, *others]))
        config = ModelConfig.from_file(bundle.path("config.json"))
        options = OnnxOptions.model_validate(manifest.target.options)
        half = manifest.cache is not None and manifest.cache.dtype == "float16"
        return OnnxArtifact(bundle.folder, files, config, options, read_kv_scales(bundle), half=half)


TARGET = OnnxTarget()


def _packed_bytes(weight: PlannedWeight, options: OnnxOptions) -> int:
    """Bytes of a matrix as onnxruntime's kernels hold it: codes, and a float32 scale and sum per block.

    Measured for int4 in groups of 32: 0.75 bytes a weight. The embedding is read from the mapped file.
    """
    if weight.name == EMBEDDING:
        return 0
    n, k = weight.shape
    if weight.scheme is None:
        return 4 * n * k
    blocks = -(-k // (weight.scheme.group_size or options.int8_block(k)))
    return n * k * weight.scheme.bits // 8 + 8 * n * blocks


def _options(recipe: Recipe) -> OnnxOptions:
    return recipe.targets.options("onnx", OnnxOptions)


def _check_min_runtime(config: ModelConfig, recipe: Recipe) -> None:
    """Refuse what a runtime as old as the recipe asks for has no kernels for."""
    options = _options(recipe)
    if not options.older:
        return
    place = f"recipe {recipe.name}: targets.onnx.min_runtime is {options.min_runtime}"
    if options.dialect != "contrib":
        raise RecipeError(f"{place}: the dialect portable is written in opset 23, which 1.23 brought")
    if recipe.kv_cache == "int8":
        raise RecipeError(f"{place}: an int8 KV cache needs {INT8_CACHE_VERSION}")
    if options.min_runtime == INT8_MATRIX_VERSION:
        return
    for weight in plan_weights(config, recipe.quantization):
        if weight.name != EMBEDDING and weight.scheme is not None and weight.scheme.bits == 8:
            raise RecipeError(
                f"{place}: {weight.name} is int8, and the product of int8 matrices needs {INT8_MATRIX_VERSION}",
                hint=f"give it int4, or min_runtime '{INT8_MATRIX_VERSION}'",
            )


def _has_genai(recipe: Recipe) -> bool:
    """onnxruntime-genai knows caches that the graph updates in place, and no appended rows."""
    return _options(recipe).dialect == "contrib"


def _save(
    config: ModelConfig,
    model: PackedModel,
    signature: GraphSignature | TextSignature,
    options: OnnxOptions,
    path: Path,
) -> tuple[str, ...]:
    """Write one graph and run the full checker on it, with the weights beside it; the operators that it calls."""
    if isinstance(signature, TextSignature):
        graph = build_text_graph(config, model, signature, options, path.stem)
    else:
        graph = build_decoder(config, model, signature, options, path.stem)
    ir.save(graph, path)
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # the checker raises its own and protobuf's types
        raise HeliumEdgeError(f"{path.name}: the graph does not pass onnx.checker: {first_line(error)}") from error
    return tuple(sorted({f"{node.domain or 'ai.onnx'}::{node.op_type}" for node in graph.graph}))
