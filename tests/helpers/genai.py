"""Generation by onnxruntime-genai, ids in and ids out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest


def genai_ids(folder: Path, prompt: Sequence[int], most: int, **options: Any) -> list[int]:
    """New ids of a bundle, with the one that ended them; skips the test where the library is missing.

    Args:
        folder: The bundle; its `genai_config.json` holds but for `options`.
        prompt: Token ids.
        most: How many new ones.
        **options: Of its search.
    """
    og = pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")
    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    parameters.set_search_options(**options)
    generator = og.Generator(model, parameters)
    generator.append_tokens(list(prompt))
    found: list[int] = []
    while len(found) < most and not generator.is_done():
        generator.generate_next_token()
        found.append(int(generator.get_next_tokens()[0]))
    return found
