"""Parity: is the graph right, what did quantization cost, and what does the user get?"""

from helium_edge.parity import facts
from helium_edge.parity.cache_checks import CacheChecks
from helium_edge.parity.document import CheckResult, GreedySample, StoreDifference
from helium_edge.parity.harness import Clock, Comparison, Reference
from helium_edge.parity.logits_store import LogitsStore
from helium_edge.parity.reference import reference_runner, require_reference
from helium_edge.parity.report import Cost, LevelReport, ParityReport, StoreReport
from helium_edge.parity.store_check import compare_store, readback
from helium_edge.parity.verdict import GraphLimits, graph_limits
from helium_edge.parity.yardstick import Yardstick

__all__ = [
    "CacheChecks",
    "CheckResult",
    "Clock",
    "Comparison",
    "Cost",
    "GraphLimits",
    "GreedySample",
    "LevelReport",
    "LogitsStore",
    "ParityReport",
    "Reference",
    "StoreDifference",
    "StoreReport",
    "Yardstick",
    "compare_store",
    "facts",
    "graph_limits",
    "readback",
    "reference_runner",
    "require_reference",
]
