"""ONNX Runtime behind the `TextRunner` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from helium_edge.documents import first_line
from helium_edge.errors import BundleError
from helium_edge.runtime.onnx_runner import load_session
from helium_edge.runtime.text_runner import Array, TextRunner, padded, real_rows
from helium_edge.signature import CLASSIFY, INPUT_IDS, TextSignature


class OnnxTextRunner(TextRunner):
    """Runs the one graph of a folder.

    Args:
        folder: Where the graph and its weights lie.
        file: Name of the graph.
        signature: Its input and output.
        threads: Threads within an operator; 0 lets ONNX Runtime choose.

    Raises:
        BundleError: The graph cannot be loaded.
    """

    def __init__(self, folder: Path, file: str, signature: TextSignature, *, threads: int = 0) -> None:
        self.signature = signature
        self._session = load_session(folder, {CLASSIFY: file}, CLASSIFY, threads)

    @override
    def run(self, ids: Sequence[int]) -> Array:
        given = padded(self.signature, ids)
        (spec,) = self.signature.outputs()
        try:
            output: Array = self._session.run([spec.name], {INPUT_IDS: given})[0]
        except Exception as error:  # the binding layer raises several unrelated types
            raise BundleError(f"ONNX Runtime stopped: {first_line(error)}") from error
        return real_rows(self.signature, output, ids)
