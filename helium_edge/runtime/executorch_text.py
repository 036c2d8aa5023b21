"""ExecuTorch behind the `TextRunner` protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from typing_extensions import override

from helium_edge.documents import first_line
from helium_edge.errors import BundleError
from helium_edge.runtime.executorch_runner import check_shapes, load_methods
from helium_edge.runtime.text_runner import Array, TextRunner, padded, real_rows
from helium_edge.signature import TextSignature


class ExecutorchTextRunner(TextRunner):
    """Runs the one method of a program.

    Args:
        path: The `.pte`.
        method: Name of the method.
        signature: Its input and output.
        threads: Threads of the process's pool, which all programs share; 0 leaves it as it is.

    Raises:
        BundleError: The program cannot be loaded, or its method is not that of the signature.
        MissingDependencyError: executorch is not installed.
        UsageError: Another number of threads while another runner is alive.
    """

    def __init__(self, path: Path, method: str, signature: TextSignature, *, threads: int = 0) -> None:
        self.signature = signature
        self._method = load_methods(path, [method], threads, self)[method]
        check_shapes(self._method.metadata, signature)

    @override
    def run(self, ids: Sequence[int]) -> Array:
        given = torch.from_numpy(padded(self.signature, ids))
        try:
            (output,) = self._method.execute([given])
        except RuntimeError as error:
            raise BundleError(f"ExecuTorch stopped: {first_line(error)}") from error
        rows: Array = output.numpy()
        return real_rows(self.signature, rows, ids)
