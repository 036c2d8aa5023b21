"""Loads the ExecuTorch libraries: quietly, with every operator that our programs use, or a plain error."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from helium_edge.errors import MissingDependencyError
from helium_edge.runtime.quiet import quiet

EXTRA = "executorch"


def require_executorch(purpose: str) -> None:
    """Refuse early, without importing anything, where the extra is not installed.

    Args:
        purpose: What needs it, as the subject of a sentence.

    Raises:
        MissingDependencyError: executorch is not installed.
    """
    if importlib.util.find_spec("executorch") is None:
        raise MissingDependencyError("executorch", extra=EXTRA, purpose=purpose)


def load_runtime(purpose: str) -> ModuleType:
    """Import ExecuTorch's Python binding, with the quantized embedding kernels registered.

    Raises:
        MissingDependencyError: executorch is not installed, or it was built for another torch.
    """
    binding, _ = load_modules(
        ("executorch.extension.pybindings.portable_lib", "executorch.kernels.quantized"), purpose
    )
    return binding


def open_program(path: Path, purpose: str) -> Any:
    """Open a `.pte` by ExecuTorch's public runtime API; its methods are loaded when they are asked for.

    Raises:
        MissingDependencyError: executorch is not installed, or it was built for another torch.
        RuntimeError: The file is no such program; ExecuTorch has printed why.
    """
    load_runtime(purpose)
    (api,) = load_modules(("executorch.runtime",), purpose)
    return api.Runtime.get().load_program(path, verification=api.Verification.InternalConsistency)


def load_modules(names: tuple[str, ...], purpose: str) -> list[ModuleType]:
    """Import modules of executorch and of what comes with it, hiding what they print.

    Raises:
        MissingDependencyError: executorch is not installed, or it was built for another torch.
    """
    require_executorch(purpose)
    try:
        with quiet():
            return [importlib.import_module(name) for name in names]
    except ImportError as error:
        # An extension that was built for another torch misses symbols of it.
        raise MissingDependencyError(
            "executorch (one that fits this torch)", extra=EXTRA, purpose=purpose
        ) from error
