"""One comparison of a language model's bundle.

Its parts are made one after the other, so that two models are never in memory. `Session` reads weights back and
runs the original; `Session.compare` gives a `Compared`, which has the levels and does what needs them: the checks
of the cache, continuations, the second oracle, the localisation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from helium_edge.bundle import Bundle
from helium_edge.bundle.kv_scales import read_kv_scales
from helium_edge.checkpoint import Checkpoint
from helium_edge.errors import HeliumEdgeError
from helium_edge.parity.bundle_store import compare_digests
from helium_edge.parity.cache_checks import CacheChecks
from helium_edge.parity.document import CheckResult, GreedySample, StoreDifference
from helium_edge.parity.greedy import Prompt
from helium_edge.parity.harness import Clock, Comparison, Reference
from helium_edge.parity.layer_table import LayerTable
from helium_edge.parity.localise import localise
from helium_edge.parity.logits_store import LogitsStore
from helium_edge.parity.oracle import OracleReport
from helium_edge.parity.oracle_optimum import AgreementMeter, optimum_runner
from helium_edge.parity.reference import reference_runner
from helium_edge.parity.report import Cost, LevelReport, StoreReport
from helium_edge.parity.store_check import compare_store, readback
from helium_edge.parity.trace import Tracer, open_tracer
from helium_edge.parity.verdict import GraphLimits, graph_limits
from helium_edge.parity.yardstick import Yardstick, has_few_ties
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import WeightStore
from helium_edge.quant.activations import SHIPPED_TO, Arithmetic
from helium_edge.recipe import Recipe
from helium_edge.runtime.runner import CachedRunner, Runner
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.targets import load_target
from helium_edge.texts import Window


@dataclass(frozen=True)
class Session:
    """What is compared, and the time that it takes.

    Attributes:
        bundle: The bundle; it may be one that is still being written.
        runner: Runs it.
        original: Its checkpoint.
        weights: The weights that were exported.
        recipe: What it was exported by.
        progress: Receives stages.
        static: The runner runs the graphs of static shape.
        elsewhere: Judge L3 by the arithmetic of the other processors that bundles are shipped to, too.
        clock: Adds up seconds by who ran.
    """

    bundle: Bundle
    runner: CachedRunner
    original: Checkpoint
    weights: WeightStore
    recipe: Recipe
    progress: Progress = SILENT
    static: bool = False
    elsewhere: bool = True
    clock: Clock = dataclasses.field(default_factory=Clock)

    def store_level(self) -> StoreReport:
        """L0: the artifact's tensors against the store, which is quantized on the way where it is not at hand.

        Of a calibrated bundle: against the digests of the store that it was exported from.
        """
        with self.clock.running("weights"):
            artifact = readback(self.bundle)
            tensors = len(artifact.names) + len(artifact.vectors)
            self.progress.stage("read weights back", tensors, "tensors")
            calibration = self.bundle.manifest.quantization.calibration
            if calibration is None:
                found = compare_store(artifact, self.weights, self.progress)
            else:
                found = compare_digests(artifact, calibration.digests, self.progress)
        return StoreReport(tensors, tuple(StoreDifference(each.name, str(each)) for each in found))

    def compare(self, windows: list[Window], *, cache: Path | None, prompts: Sequence[Prompt] = ()) -> Compared:
        """Levels that compare logits: L1 and L3, and with prompts to continue L2 as well.

        Args:
            windows: Conversations to run.
            cache: Folder of the reference's logits; None keeps them in memory.
            prompts: Beginnings to continue greedily.
        """
        tokens = _count(windows)
        self.progress.stage("run original", tokens, "tokens")
        cache_len = self.runner.cache_len
        identity = {name: metadata.version(name) for name in ("transformers", "torch")}
        reference = self._reference(identity, cache, lambda: reference_runner(self.original, cache_len))
        reference.prepare(windows, prompts, self.progress)
        self.progress.stage("dequantize")
        with self.clock.running("loading"):
            arithmetic = load_target(self.bundle.manifest.target.name).arithmetic(self.recipe, self.weights.plan)
            scales, elsewhere = read_kv_scales(self.bundle), self._elsewhere(arithmetic)
            yardstick = Yardstick(self.weights, arithmetic, cache_len, scales, self._tracer(), elsewhere)
        self.progress.stage("compare", tokens, "tokens")
        limits = graph_limits(arithmetic, self.original.config.num_hidden_layers, traced=yardstick.traces)
        comparison = Comparison(
            candidate=self.runner,
            reference=reference,
            windows=windows,
            gates=self.recipe.gates,
            widths=self.bundle.manifest.prefill_widths(),
            yardstick=yardstick,
            limits=limits,
            budget=bool(prompts),
            clock=self.clock,
        )
        reports = comparison.run(self.progress)
        here = tuple(level for level in reports if not level.processor)
        there = tuple(level for level in reports if level.processor)
        return Compared(self, comparison, yardstick, limits, prompts, here, there)

    def second_reference(self, version: str, cache: Path) -> Reference:
        """Optimum's stock export of the same checkpoint."""
        identity = {"oracle": "optimum", "version": version}
        return self._reference(identity, cache, lambda: optimum_runner(self.original, self.runner.cache_len))

    def _reference(self, identity: dict[str, str], cache: Path | None, load: Callable[[], Runner]) -> Reference:
        known = {"checkpoint": self.bundle.manifest.source.files, **identity}
        return Reference(LogitsStore(cache, known), load, self.runner.vocab_size, self.clock)

    def _elsewhere(self, here: Arithmetic) -> dict[str, Arithmetic]:
        """The arithmetic of other processors, where it is another one than here."""
        target = load_target(self.bundle.manifest.target.name)
        known = {kind: target.arithmetic(self.recipe, self.weights.plan, kind) for kind in SHIPPED_TO}
        return {kind: found for kind, found in known.items() if self.elsewhere and found.rules != here.rules}

    def _tracer(self) -> Tracer | None:
        """Says what the runtime rounds, where the graphs can be run in pieces, and few rows need it."""
        config = self.weights.config
        if not load_target(self.bundle.manifest.target.name).can_localise or not has_few_ties(config):
            return None
        return open_tracer(self.bundle, config, read_kv_scales(self.bundle), static=self.static)


@dataclass(frozen=True)
class Compared:
    """The levels that compare logits, and what follows from them.

    Attributes:
        session: What was compared.
        comparison: How.
        yardstick: Our torch decoder with the weights that were exported.
        limits: What L1 and the checks of the cache allow.
        prompts: Beginnings to continue greedily.
        levels: L1 to L3, as far as they were run.
        elsewhere: L3 as other processors compute.
    """

    session: Session
    comparison: Comparison
    yardstick: Yardstick
    limits: GraphLimits
    prompts: Sequence[Prompt]
    levels: tuple[LevelReport, ...]
    elsewhere: tuple[LevelReport, ...]

    def cache_checks(self, tokens: tuple[int, ...]) -> tuple[CheckResult, ...]:
        """The cache contract, on a conversation."""
        manifest, progress = self.session.bundle.manifest, self.session.progress
        methods = [graph for graph in manifest.graphs if graph.method is not None]
        buckets = sorted({graph.cache_len for graph in methods if graph.cache_len is not None})
        checks = CacheChecks(self.session.runner, self.yardstick, self.limits, manifest.prefill_len, buckets)
        progress.stage("check cache", checks.count, "checks")
        results = []
        with self.session.clock.running("cache checks"):
            for result in checks.run(tokens):
                results.append(result)
                progress.advance(note=result.name)
        return tuple(results)

    def greedy(self, tokenizer: Tokenizer) -> tuple[GreedySample, ...]:
        """Continuations side by side, one a language."""
        self.session.progress.stage("generate")
        return tuple(self.comparison.greedy(self.prompts, tokenizer, self.session.bundle.manifest.tokens.eos))

    def localise(self, tokens: tuple[int, ...], *, asked: bool) -> LayerTable | None:
        """Operation by operation: when asked, when L1 fails, and where L1 alone is loose."""
        session = self.session
        failed = any(level.level == "L1" and not level.passed for level in self.levels)
        loose = self.yardstick.arithmetic.rounds and not self.yardstick.traces
        known = load_target(session.bundle.manifest.target.name).can_localise
        if not (asked or ((failed or loose) and known)):
            return None
        with session.clock.running("localisation"):
            try:
                return localise(
                    session.bundle, session.weights, tokens, static=session.static, progress=session.progress
                )
            except HeliumEdgeError:
                if asked:
                    raise
                return None  # what cannot be cut has failed L1 all the same

    def second_oracle(self, cache: Path) -> OracleReport:
        """Optimum's stock export of the same checkpoint against the reference, and the candidate against it."""
        version = metadata.version("optimum-onnx")
        windows, progress = self.comparison.windows, self.session.progress
        progress.stage("run optimum", _count(windows), "tokens")
        known, second = self.comparison.reference, self.session.second_reference(version, cache)
        meter = AgreementMeter()
        for index, window in enumerate(windows):
            meter.add(index, 0, known.rows(window.tokens[:-1]), second.rows(window.tokens[:-1]))
            progress.advance(len(window.tokens) - 1)
        against = dataclasses.replace(self.comparison, reference=second, yardstick=None, limits=None)
        (level,) = against.run()
        return OracleReport("optimum", version, meter.result(), level.overall)

    def cost(self, wall: float) -> Cost:
        """Where `wall` seconds went."""
        return Cost(wall, dict(self.session.clock.seconds), not self.comparison.reference.loaded)


def _count(windows: Sequence[Window]) -> int:
    return sum(len(window.tokens) - 1 for window in windows)
