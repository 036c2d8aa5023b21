"""What is counted: runtimes for ARM64, each with its operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from arm64.ggml import build_ggml
from arm64.jobs import Counted, onnx_jobs, pte_jobs
from arm64.jobs_llama import llama_jobs
from arm64.wheels import Library, fetch_library


@dataclass(frozen=True)
class Runtime:
    """One engine.

    Attributes:
        library: What runs it on a processor.
        jobs: Writes its graphs into a folder, and says how to run them.
        ours: Bundles of ours run on it; what others are counted for is the comparison.
    """

    library: Callable[[str], Library]
    jobs: Callable[[Path], Iterator[Counted]]
    ours: bool = True


RUNTIMES = {
    "onnx": Runtime(lambda _: fetch_library("onnxruntime"), onnx_jobs),
    "pte": Runtime(lambda _: fetch_library("executorch"), pte_jobs),
    "llama": Runtime(build_ggml, llama_jobs, ours=False),
}
"""By their names in the table."""
