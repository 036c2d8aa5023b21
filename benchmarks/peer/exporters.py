"""The exporters whose cost is compared, as commands, and the files of each engine made from one checkpoint."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from peer.costs import Cost, run_command
from peer.engine import worker_environment

PEERS = Path(__file__).resolve().parents[1] / "peers.py"

Pythons = Mapping[str, str]
"""Interpreter by kind of peer, for those that need an environment of their own."""


Command = Callable[[Path, Path, str], list[str]]


@dataclass(frozen=True)
class Exporter:
    """One way from a checkpoint to files.

    Attributes:
        name: For the table.
        kind: Of peer, for its interpreter.
        command: Arguments from checkpoint, output and interpreter.
        file: Name of what it makes.
        llama: Takes a copy of the checkpoint that is named Llama.
    """

    name: str
    kind: str
    command: Command
    file: str
    llama: bool = False


def _ours(recipe: str) -> Command:
    # Without the comparison: no peer makes one, and random weights would not pass it.
    start = "from helium_edge.cli.main import main; main()"
    return lambda source, output, python: [
        python, "-c", start, "export", str(source), "--recipe", recipe, "--no-parity", "-o", str(output)
    ]  # fmt: skip


def _gguf(kind: str) -> Command:
    return lambda source, output, python: [python, str(PEERS), "gguf", str(source), str(output), "--type", kind]


def _genai(precision: str) -> Command:
    return lambda source, output, python: [
        python, "-m", "onnxruntime_genai.models.builder", "-i", str(source), "-o", str(output),
        "-p", precision, "-e", "cpu", "-c", str(output.parent / "cache"),
    ]  # fmt: skip


def _optimum(source: Path, output: Path, python: str) -> list[str]:
    return [
        python, "-m", "optimum.commands.optimum_cli", "export", "onnx", "--model", str(source),
        "--task", "text-generation-with-past", str(output),
    ]  # fmt: skip


EXPORTERS = {
    "onnx-int4": Exporter("helium-edge onnx-int4", "helium-edge", _ours("onnx-int4"), "onnx-int4"),
    "xnnpack-int4": Exporter("helium-edge xnnpack-int4", "helium-edge", _ours("xnnpack-int4"), "xnnpack-int4"),
    "q4_0": Exporter("GGUF, then llama.cpp Q4_0", "llama.cpp", _gguf("q4_0"), "q4_0.gguf"),
    "q4_k_m": Exporter("GGUF, then llama.cpp Q4_K_M", "llama.cpp", _gguf("q4_k_m"), "q4_k_m.gguf"),
    "q8_0": Exporter("GGUF, then llama.cpp Q8_0", "llama.cpp", _gguf("q8_0"), "q8_0.gguf"),
    "genai": Exporter("onnxruntime-genai builder int4 (as Llama)", "genai", _genai("int4"), "genai", llama=True),
    "optimum": Exporter("optimum-cli export onnx, f32", "optimum", _optimum, "optimum"),
}

UNQUANTIZED = {
    "llama.cpp": Exporter("llama.cpp", "llama.cpp", _gguf("f32"), "f32.gguf"),
    "genai": Exporter("onnxruntime-genai (as Llama)", "genai", _genai("fp32"), "genai", llama=True),
    "optimum": EXPORTERS["optimum"],
}
"""For comparing logits, by kind of peer."""


def export(exporter: Exporter, source: Path, output: Path, pythons: Pythons, threads: int) -> Cost:
    """Run one exporter; `source` is the checkpoint, or its copy named Llama.

    Raises:
        CommandFailed: It failed.
    """
    python = pythons.get(exporter.kind, sys.executable)
    command = exporter.command(source, output, python)
    environment = worker_environment(os.environ, threads)
    return run_command(command, output, environment, output.with_name(output.name + ".log"))
