"""A bundle against the checkpoint that it came from: what `helium-edge parity` does, and `export` in short."""

from __future__ import annotations

import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

from helium_edge.bundle import Bundle, open_bundle, open_head, open_runner
from helium_edge.bundle.kv_scales import read_kv_scales
from helium_edge.checkpoint import Checkpoint
from helium_edge.errors import HeliumEdgeError, UsageError
from helium_edge.original import original_of
from helium_edge.parity import (
    CacheChecks,
    CachedRunner,
    CheckResult,
    Clock,
    Comparison,
    Cost,
    GraphLimits,
    GreedySample,
    LogitsStore,
    ParityReport,
    Reference,
    StoreDifference,
    StoreReport,
    Yardstick,
    arithmetic_of,
    cache_folder,
    compare_store,
    facts,
    graph_limits,
    readback,
    reference_runner,
    require_reference,
)
from helium_edge.parity.greedy import Prompt, first_words
from helium_edge.parity.head_graph import SHORT_TEXTS, compare_graph
from helium_edge.parity.heads import HeadReport, ReferenceHead, compare_heads, text_lengths
from helium_edge.parity.layer_table import LayerTable
from helium_edge.parity.localise import LOCALISED, localise
from helium_edge.parity.oracle import OracleReport
from helium_edge.parity.oracle_optimum import AgreementMeter, optimum_runner, require_optimum
from helium_edge.parity.trace import Tracer, open_tracer
from helium_edge.parity.yardstick import has_few_ties
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import QuantizedStore
from helium_edge.recipe import Recipe
from helium_edge.runtime.runner import Runner
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.texts import BUILT_IN_TEXT, MIN_WINDOW_LEN, TextSource, Window, evaluation_windows

FULL_WINDOW = 256
"""Tokens of one conversation."""
BUILT_IN = "built-in, six languages"

OracleName = Literal["optimum"]


def check(  # noqa: PLR0913 - an argument per option of the command
    bundle_path: Path,
    *,
    checkpoint: str | None = None,
    text: TextSource = BUILT_IN_TEXT,
    threads: int = 0,
    static: bool = False,
    unverified: bool = False,
    store: Path | None = None,
    layers: bool = False,
    oracle: OracleName | None = None,
    decoders_only: bool = False,
    progress: Progress = SILENT,
) -> ParityReport | HeadReport:
    """Compare a bundle with the checkpoint that it was exported from: all levels, and the cache contract.

    Args:
        bundle_path: The bundle.
        checkpoint: Where its checkpoint is; by default where the manifest says it came from.
        text: What to compare on.
        threads: Threads within an operator; 0 lets the runtime choose.
        static: Run the static prefill and decode graphs instead of the one that serves both.
        unverified: Run a bundle whose checksums do not match.
        store: Folder of quantized weights, as of `export --store`; by default they are quantized anew.
        layers: Localise also when L1 holds: the error of every operation of every layer.
        oracle: A second oracle beside transformers; like `layers`, of language models alone.
        decoders_only: Refuse other models before anything is run.
        progress: Receives stages.

    Returns:
        The report, judged by the gates of the bundle's recipe; missing a gate is no exception here. A model that
        is no language model has a report of its own.

    Raises:
        InputError: Bundle or checkpoint are unusable, or do not belong together.
        MissingDependencyError: The extra `reference` is missing.
        UsageError: What is asked for is of language models alone, and this is none.
    """
    started, tell = time.perf_counter(), progress
    require_reference()
    if oracle is not None:
        require_optimum()
    tell.stage("read bundle")
    bundle = open_bundle(bundle_path, unverified=unverified)
    if bundle.manifest.head is not None and (decoders_only or layers or oracle is not None):
        raise UsageError(
            f"{bundle_path}: {bundle.manifest.model.architecture} is no language model; pages, test results, "
            "tables, baselines, --layers and --oracle are of language models",
            hint="--json has all figures",
        )
    original = original_of(bundle.manifest, checkpoint)
    recipe = Recipe.model_validate_json(json.dumps(bundle.manifest.quantization.recipe))
    if bundle.manifest.head is not None:
        with tempfile.TemporaryDirectory(prefix="helium-edge-") as scratch:
            weights = QuantizedStore(original, recipe.quantization, store or Path(scratch))
            return check_head(bundle, original, weights, recipe, tell, text, threads=threads)
    runner = open_runner(bundle, threads=threads, static=static)
    tokenizer = Tokenizer(bundle.folder / bundle.manifest.tokenizer.file)
    windows = text.windows(tokenizer, min(FULL_WINDOW, runner.cache_len))
    with tempfile.TemporaryDirectory(prefix="helium-edge-") as scratch:
        weights = QuantizedStore(original, recipe.quantization, store or Path(scratch))
        run = _Run(bundle, runner, original, weights, recipe, tell, static=static)
        exact = run.level0(bundle)
        report = run.compare(windows, cache=cache_folder(), prompts=first_words(windows, tokenizer))
        checks = tuple(run.cache_checks(windows[0].tokens))
        greedy = tuple(run.greedy(tokenizer))
        second = run.second_oracle(windows, cache_folder()) if oracle is not None else None
        table = run.localise(bundle, report, windows[0].tokens, static=static, asked=layers)
    return dataclasses.replace(
        report,
        layers=table,
        oracle=second,
        levels=(exact, *report.levels),
        checks=checks,
        greedy=greedy,
        subject=facts.subject(bundle),
        environment=facts.environment(bundle, threads),
        text=facts.text(str(text.file or BUILT_IN), windows),
        cost=run.cost(time.perf_counter() - started),
    )


def check_head(
    bundle: Bundle,
    original: Checkpoint,
    weights: QuantizedStore,
    recipe: Recipe,
    tell: Progress,
    text: TextSource,
    *,
    threads: int = 0,
) -> HeadReport:
    """Compare a bundle whose model is no language model with our torch classifier, and with its original.

    Args:
        bundle: The bundle; it may be one that is still being written.
        original: Its checkpoint.
        weights: The weights that were exported.
        recipe: What it was exported by.
        tell: Told about the stages.
        text: What to compare on.
        threads: Threads within an operator; 0 lets the runtime choose.
    """
    manifest = bundle.manifest
    tell.stage("run")
    runner = open_head(bundle, threads=threads)
    tokenizer = Tokenizer(bundle.folder / manifest.tokenizer.file)
    length = min(FULL_WINDOW, max(MIN_WINDOW_LEN, manifest.prefill_len))
    texts = text_lengths(text.windows(tokenizer, length), manifest.prefill_len)
    tell.stage("compare with torch", len(texts) + SHORT_TEXTS, "texts")
    # Before the original is loaded: two models are never in memory.
    graph = compare_graph(runner, weights, arithmetic_of(manifest.target.name, recipe, weights.plan), texts, tell)
    tell.stage("load original")
    reference = ReferenceHead(original, manifest.prefill_len)
    tell.stage("compare with original", len(texts), "texts")
    report = compare_heads(runner, reference, texts, recipe.gates, tell)
    return dataclasses.replace(report, graph=graph)


def quick_check(  # noqa: PLR0913 - what an export has at hand
    bundle: Bundle,
    runner: Runner,
    original: Checkpoint,
    weights: QuantizedStore,
    recipe: Recipe,
    tokenizer: Tokenizer,
    *,
    window_len: int,
    tell: Progress,
) -> ParityReport:
    """Levels L1 and L3 on a window of each language: the check that `export` makes before it publishes."""
    started = time.perf_counter()
    windows = evaluation_windows(
        tokenizer, window_len=min(window_len, runner.cache_len), max_windows_per_language=1
    )
    run = _Run(bundle, runner, original, weights, recipe, tell)
    report = run.compare(windows, cache=None)
    return dataclasses.replace(
        report, text=facts.text(BUILT_IN, windows), cost=run.cost(time.perf_counter() - started)
    )


class _Run:
    """The parts of one comparison, made one after the other so that two models are never in memory."""

    def __init__(
        self,
        bundle: Bundle,
        runner: Runner,
        original: Checkpoint,
        weights: QuantizedStore,
        recipe: Recipe,
        tell: Progress,
        *,
        static: bool = False,
    ) -> None:
        self._bundle = bundle
        self._static = static
        self._scales = read_kv_scales(bundle)
        self._runner = runner
        self._original = original
        self._weights = weights
        self._recipe = recipe
        self._tell = tell
        self._clock = Clock()
        self._yardstick: Yardstick | None = None
        self._comparison: Comparison | None = None
        self._cached = False
        self._prompts: Sequence[Prompt] = ()

    def level0(self, bundle: Bundle) -> StoreReport:
        """The artifact's tensors against the store, which is quantized on the way where it is not at hand."""
        with self._clock.running("weights"):
            artifact = readback(bundle)
            self._tell.stage("read weights back", len(artifact.names) + len(artifact.vectors), "tensors")
            found = compare_store(artifact, self._weights, self._tell)
        tensors = len(artifact.names) + len(artifact.vectors)
        return StoreReport(tensors, tuple(StoreDifference(each.name, str(each)) for each in found))

    def compare(
        self, windows: list[Window], *, cache: Path | None, prompts: Sequence[Prompt] = ()
    ) -> ParityReport:
        """Levels that compare logits: L1 and L3, and with prompts to continue L2 as well."""
        self._prompts = prompts
        tell, runner = self._tell, self._runner
        identity = {
            "checkpoint": self._bundle.manifest.source.files,
            "transformers": metadata.version("transformers"),
            "torch": metadata.version("torch"),
        }

        def load() -> Runner:
            return reference_runner(self._original, runner.cache_len)

        reference = Reference(LogitsStore(cache, identity), load, runner.vocab_size, self._clock)
        tokens = sum(len(window.tokens) - 1 for window in windows)
        tell.stage("run original", tokens, "tokens")
        reference.prepare(windows, self._prompts, tell)
        self._cached = not reference.loaded
        tell.stage("dequantize")
        with self._clock.running("loading"):
            arithmetic = arithmetic_of(self._bundle.manifest.target.name, self._recipe, self._weights.plan)
            self._yardstick = Yardstick(self._weights, arithmetic, runner.cache_len, self._scales, self._tracer())
        tell.stage("compare", tokens, "tokens")
        self._comparison = Comparison(
            runner, reference, windows, self._recipe.gates, self._bundle.manifest.prefill_widths(),
            self._yardstick, self._limits(), bool(prompts), self._clock,
        )  # fmt: skip
        return ParityReport(tuple(self._comparison.run(tell)))

    def cache_checks(self, tokens: tuple[int, ...]) -> list[CheckResult]:
        """The cache contract."""
        assert self._yardstick is not None
        assert isinstance(self._runner, CachedRunner)
        graphs = self._bundle.manifest.graphs
        buckets = sorted({graph.cache_len for graph in graphs if graph.phase == "decode" and graph.cache_len})
        checks = CacheChecks(
            self._runner, self._yardstick, self._limits(), self._bundle.manifest.prefill_len,
            buckets if self._bundle.manifest.runtime == "executorch" else (),
        )  # fmt: skip
        self._tell.stage("check cache", checks.count, "checks")
        results = []
        with self._clock.running("cache checks"):
            for result in checks.run(tokens):
                results.append(result)
                self._tell.advance(note=result.name)
        return results

    def greedy(self, tokenizer: Tokenizer) -> list[GreedySample]:
        """Continuations side by side, one a language."""
        assert self._comparison is not None
        self._tell.stage("generate")
        return self._comparison.greedy(self._prompts, tokenizer, self._bundle.manifest.tokens.eos)

    def localise(
        self, bundle: Bundle, report: ParityReport, tokens: tuple[int, ...], *, static: bool, asked: bool
    ) -> LayerTable | None:
        """Operation by operation: when asked, when L1 fails, and where L1 alone is loose."""
        assert self._yardstick is not None
        graph = report.level("L1")
        loose = self._yardstick.arithmetic.rounds and not self._yardstick.traces
        failed = graph is not None and not graph.passed
        if not (asked or failed or loose) or (bundle.manifest.target.name not in LOCALISED and not asked):
            return None
        with self._clock.running("localisation"):
            try:
                return localise(bundle, self._weights, tokens, static=static, progress=self._tell)
            except HeliumEdgeError:
                if asked:
                    raise
                return None  # what cannot be cut has failed L1 all the same

    def second_oracle(self, windows: list[Window], cache: Path) -> OracleReport:
        """Optimum's stock export of the same checkpoint against the reference, and the candidate against it."""
        assert self._comparison is not None
        version = metadata.version("optimum-onnx")
        identity = {"checkpoint": self._bundle.manifest.source.files, "oracle": "optimum", "version": version}
        tokens = sum(len(window.tokens) - 1 for window in windows)
        self._tell.stage("run optimum", tokens, "tokens")

        def load() -> Runner:
            return optimum_runner(self._original, self._runner.cache_len)

        known = self._comparison.reference
        second = Reference(LogitsStore(cache, identity), load, self._runner.vocab_size, self._clock)
        meter = AgreementMeter()
        for index, window in enumerate(windows):
            meter.add(index, 0, known.rows(window.tokens[:-1]), second.rows(window.tokens[:-1]))
            self._tell.advance(len(window.tokens) - 1)
        against = dataclasses.replace(self._comparison, reference=second, yardstick=None, limits=None)
        (level,) = against.run()
        return OracleReport("optimum", version, meter.result(), level.overall)

    def cost(self, wall: float) -> Cost:
        """Where the time went."""
        return Cost(wall, dict(self._clock.seconds), self._cached)

    def _tracer(self) -> Tracer | None:
        """Tells what the runtime rounds, where the graphs can be run in pieces, and few rows need it."""
        few = self._bundle.manifest.target.name in LOCALISED and has_few_ties(self._weights.config)
        return open_tracer(self._bundle, self._weights.config, self._scales, static=self._static) if few else None

    def _limits(self) -> GraphLimits:
        assert self._yardstick is not None
        layers = self._original.config.num_hidden_layers
        return graph_limits(self._yardstick.arithmetic, layers, traced=self._yardstick.traces)
