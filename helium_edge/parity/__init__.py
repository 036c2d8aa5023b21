"""Parity: does the exported graph agree with the original, and what did quantization cost?"""

from helium_edge.parity.harness import run_parity
from helium_edge.parity.reference import reference_runner, require_reference
from helium_edge.parity.report import ParityReport
from helium_edge.parity.text import LANGUAGES, Window, evaluation_windows

__all__ = [
    "LANGUAGES",
    "ParityReport",
    "Window",
    "evaluation_windows",
    "reference_runner",
    "require_reference",
    "run_parity",
]
