"""Prompt lookup by the Python host: guesses in texts that repeat themselves, and texts that it must not change."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from helium_edge import LanguageModel, export, load
from helium_edge.runtime.lookahead import NgramLookup
from helium_edge.texts import LANGUAGES, evaluation_text

NEW_TOKENS = 48


def lookup_cases() -> Iterator[dict[str, Any]]:
    """Texts that grow, with a guess after each piece; some are long enough that tables must grow with them."""
    rng = random.Random(21)
    for index in range(320):
        vocabulary = rng.choice([2, 3, 6, 30, 4096])
        ids: Sequence[int] = range(vocabulary)
        if index % 4 == 0:
            ids = [rng.randrange(1 << 20) for _ in ids]
        lookup = NgramLookup()
        text: list[int] = []
        steps = []
        for _ in range(rng.randint(1, 120 if index % 40 == 0 else 25)):
            more = rng.choices(ids, k=rng.choice([0, 1, 1, 1, 2, 5, 30]))
            if text and rng.random() < 0.5:
                start = rng.randrange(len(text))
                more = text[start : start + rng.randint(2, 12)]  # what was said before
            lookup.extend(more)
            text.extend(more)
            most = rng.choice([0, 1, 3, 7, 7, 7])
            steps.append({"more": more, "most": most, "guess": lookup.guess(most)})
        yield {"steps": steps}


def write_bundle(folder: Path) -> Path:
    """Export helium-tiny in float32, whose choices do not hang on how kernels round one row and several."""
    return export("helium-tiny", recipe="onnx-fp32", out=folder / "float32", force=True, parity=False).bundle


def texts(bundle: Path) -> Iterator[dict[str, Any]]:
    """Prompts that begin to repeat themselves, and how single steps continue them."""
    with load(bundle, threads=1) as model:
        assert isinstance(model, LanguageModel)
        for number in range(18):
            words = evaluation_text(LANGUAGES[number % len(LANGUAGES)]).split()
            start = 37 * number % (len(words) - 40)
            prompt = " ".join(words[start : start + 6 + number])
            prompt = f"{prompt} {prompt} {prompt[: len(prompt) // 2]}"
            found = model.stream(prompt, temperature=0, max_new_tokens=NEW_TOKENS)
            list(found)
            yield {"prompt": prompt, "prompt_ids": found.prompt_ids, "ids": found.ids}
