"""Timing and memory of bundles: one alone, or two in turn."""

from helium_edge.bench.bandwidth import read_test
from helium_edge.bench.cases import Case, Settings
from helium_edge.bench.engine import BundleEngine, Engine, WorkerProcess
from helium_edge.bench.phone import run_on_phone
from helium_edge.bench.report import BenchReport, BundleResult, Timing
from helium_edge.bench.run import run_bench
from helium_edge.bench.schedule import Samples, take_samples
from helium_edge.bench.stats import Ratio, Summary, ratio

__all__ = [
    # a whole benchmark
    "BenchReport", "BundleResult", "Settings", "Timing", "run_bench", "run_on_phone",
    # its core, for other engines
    "BundleEngine", "Case", "Engine", "Samples", "WorkerProcess", "read_test", "take_samples",
    # statistics
    "Ratio", "Summary", "ratio",
]  # fmt: skip
