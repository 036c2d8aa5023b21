"""CoreML classifiers and encoders behind the `TextRunner` protocol, by our interpreter; see `coreml_runner.py`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from typing_extensions import override

from helium_edge.runtime.coreml_program import read_coreml
from helium_edge.runtime.coreml_runner import CoremlRunner, InterpretedMethod, find_method
from helium_edge.runtime.text_runner import Array, TextRunner, padded, real_rows
from helium_edge.signature import TextSignature


class CoremlTextRunner(TextRunner):
    """Evaluates the one method of a `.pte`.

    Args:
        path: The `.pte`.
        method: Name of the method.
        signature: Its input and output.

    Attributes:
        evaluated_by: What computes the logits.
        caveat: The same as a sentence, for reports.

    Raises:
        BundleError: The file cannot be read, or its method is not that of the signature.
        MissingDependencyError: coremltools is not installed.
    """

    evaluated_by = CoremlRunner.evaluated_by
    caveat = CoremlRunner.caveat

    def __init__(self, path: Path, method: str, signature: TextSignature) -> None:
        self.signature = signature
        self._method = InterpretedMethod(find_method(read_coreml(path), method, path), signature, {})

    @override
    def run(self, ids: Sequence[int]) -> Array:
        (output,) = self._method([padded(self.signature, ids)])
        return real_rows(self.signature, output, ids)
