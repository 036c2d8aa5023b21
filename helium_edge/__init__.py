"""Exports Kyutai Helium models to ONNX and ExecuTorch for phones, and compares the result with the original.

What `__all__` lists is the public API, which docs/api.md describes; it is imported when it is first used. All else
may change in any release.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# ONNX Runtime 1.32 sends events to its maker and keeps an id under the home folder, unless this is set before it
# is loaded; the second is what huggingface_hub asks. Whoever sets them otherwise is obeyed.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from helium_edge.api import check as check
    from helium_edge.api import export as export
    from helium_edge.api import load as load
    from helium_edge.conversation import Conversation as Conversation
    from helium_edge.errors import HeliumEdgeError as HeliumEdgeError
    from helium_edge.generation import Classifier as Classifier
    from helium_edge.generation import Encoder as Encoder
    from helium_edge.generation import LanguageModel as LanguageModel
    from helium_edge.recipe import Recipe as Recipe

_HOMES = {
    "check": "api",
    "export": "api",
    "Conversation": "conversation",
    "HeliumEdgeError": "errors",
    "Classifier": "generation",
    "Encoder": "generation",
    "LanguageModel": "generation",
    "load": "api",
    "Recipe": "recipe",
}

__all__ = [
    "Classifier", "Conversation", "Encoder", "HeliumEdgeError", "LanguageModel", "Recipe", "check", "export",
    "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562): torch and the runtimes take seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
