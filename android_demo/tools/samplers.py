"""How tokens are chosen: picks for given numbers, options over defaults of bundles, texts that end early."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any, cast

import numpy as np

from helium_edge.bundle import GenerationSection
from helium_edge.errors import HeliumEdgeError, UsageError
from helium_edge.language_model import Sampling, most_new_tokens, sampling_options
from helium_edge.runtime.generate import GenerationStats
from helium_edge.runtime.sampling import Sampler, SamplingOptions
from helium_edge.runtime.stop_strings import StopStrings
from helium_edge.runtime.text_generation import Generation
from helium_edge.runtime.tokenizer import Tokenizer


def sampler_cases() -> Iterator[dict[str, Any]]:
    """Picks for given logits, options and uniforms; and logits from which none can be made."""
    rng = np.random.default_rng(6)
    for index in range(400):
        size = int(rng.choice([1, 2, 7, 64, 300, 1000]))
        logits = (rng.standard_normal(size) * rng.choice([0.1, 1.0, 6.0])).astype(np.float32)
        if index % 5 == 0:
            logits = np.round(logits)  # ties
        if index % 7 == 0 and size > 2:
            logits[rng.random(size) < 0.3] = -np.inf
            logits[0] = 0.0
        options = SamplingOptions(
            temperature=float(rng.choice([0.0, 0.01, 0.7, 1.0, 3.0])),
            top_k=int(rng.choice([0, 1, 5, 40, 600])),
            top_p=float(rng.choice([1.0, 0.95, 0.5, 0.01])),
            min_p=float(rng.choice([0.0, 0.0, 0.1, 0.9])),
            repetition_penalty=float(rng.choice([1.0, 1.0, 1.3, 0.7])),
            no_repeat_ngram_size=int(rng.choice([0, 0, 1, 2, 3])),
            suppress_tokens=tuple(rng.integers(0, size + 2, 3).tolist()) if index % 3 == 0 else (),
        )
        context = rng.integers(0, min(size + 1, 9), int(rng.integers(0, 40))).tolist()
        uniforms = [0.0, 1 - 2.0**-53, *rng.random(6).tolist()]
        yield sampler_case(logits, options, uniforms, context)
    for bad in ([0.0, math.nan, 1.0], [math.inf, 0.0], [-math.inf, -math.inf], [math.nan]):
        for temperature in (0.0, 1.0):
            yield sampler_case(np.array(bad, dtype=np.float32), SamplingOptions(temperature), [0.5])


def sampler_case(
    logits: np.ndarray[Any, np.dtype[np.float32]],
    options: SamplingOptions,
    uniforms: list[float],
    context: Sequence[int] = (),
) -> dict[str, Any]:
    sampler = Sampler(options)
    given = iter(uniforms)
    sampler._uniform = lambda: next(given)  # type: ignore[method-assign]
    picks, ruled_out = None, False
    try:
        picks = [sampler.pick(logits, context) for _ in uniforms]
    except HeliumEdgeError as error:
        ruled_out = isinstance(error, UsageError)
    return {
        **asdict(options),
        "logits": [str(value) for value in logits.astype(np.float64)],
        "uniforms": uniforms,
        "context": list(context),
        "picks": picks,
        "ruled_out": ruled_out,
    }


def override_cases() -> Iterator[dict[str, Any]]:
    """Defaults of bundles, what somebody asks for in their place, and what holds then."""
    rng = random.Random(15)

    def some(values: dict[str, list[Any]], share: float) -> dict[str, Any]:
        return {name: rng.choice(choices) for name, choices in values.items() if rng.random() < share}

    values: dict[str, list[Any]] = {
        "temperature": [0.0, 0.3, 1.0, 2.5],
        "top_k": [0, 1, 40],
        "top_p": [0.1, 0.9, 1.0],
        "min_p": [0.0, 0.05, 1.0],
        "repetition_penalty": [0.5, 1.0, 1.2],
        "no_repeat_ngram_size": [0, 3],
        "suppress_tokens": [[], [5], [0, 4095]],
        "stop_strings": [[], ["\n"], ["</s>", "User:"]],
        "max_new_tokens": [1, 7, 500],
    }
    bad: dict[str, list[Any]] = {
        "temperature": [-0.1],
        "top_k": [-1],
        "top_p": [0.0, 1.01, -1.0],
        "min_p": [-0.1, 1.5],
        "repetition_penalty": [0.0, -2.0],
        "no_repeat_ngram_size": [-1],
        "stop_strings": [[""], ["a", ""]],
    }
    lengths = [1, 9, 40, 1000]
    for index in range(500):
        defaults = some({**values, "do_sample": [False, True], "max_length": [1, 20, 300]}, 0.5)
        asked = some(values, 0.4)
        if index % 6 == 0:
            name = rng.choice(list(bad))
            asked[name] = rng.choice(bad[name])
        section, sampling = GenerationSection(**defaults), cast(Sampling, asked)
        # A bound of prompt and answer together is no option of the Python host: it is that of the defaults there.
        bound = rng.choice([2, 30, 700]) if rng.random() < 0.3 and "max_new_tokens" not in asked else None
        bounded = section if bound is None else section.model_copy(update={"max_length": bound})
        case = {
            "defaults": section.model_dump(mode="json"),
            "asked": asked | ({"max_length": bound} if bound else {}),
        }
        try:
            options = sampling_options(section, sampling)
            StopStrings(strings := asked.get("stop_strings", list(section.stop_strings)))
        except UsageError as error:
            yield {**case, "refused": error.message}
            continue
        most = [most_new_tokens(bounded, sampling, length) for length in lengths]
        found = {"options": asdict(options), "stop_strings": strings, "prompt_tokens": lengths, "new_tokens": most}
        yield {**case, **found}


def stop_string_cases() -> Iterator[dict[str, Any]]:
    """Texts in pieces, of few letters so that strings come, nearly come and overlap."""
    rng = random.Random(9)
    for _ in range(300):
        strings = ["".join(rng.choices("ab\n", k=rng.randint(1, 4))) for _ in range(rng.randint(0, 3))]
        pieces = ["".join(rng.choices("abc\n", k=rng.randint(0, 3))) for _ in range(rng.randint(0, 8))]
        seen = [rng.random() < 0.8 for _ in pieces]
        before = "".join(rng.choices("ab\n", k=rng.randint(0, 5)))
        stop = StopStrings(strings, before)
        shown = [*(stop.push(piece, shown=see) for piece, see in zip(pieces, seen, strict=True)), stop.finish()]
        found = {"shown": shown, "found": stop.found}
        yield {"strings": strings, "before": before, "pieces": pieces, "seen": seen, **found}


def stop_text_cases(tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """Whole texts that end at strings, most of which begin in the prompt or spell special tokens."""
    rng = random.Random(10)
    # No bytes: a run of these is text when it ends.
    usual = [index for index in range(tokenizer.vocab_size) if not tokenizer.is_byte(index)]
    for case in range(300):
        ids = [rng.choice((1, 2, *rng.choices(usual, k=8))) for _ in range(30)]
        prompt = rng.randint(1, 20)
        whole, edge = tokenizer.spell(ids), len(tokenizer.spell(ids[:prompt]))
        start = rng.randint(max(0, edge - 9), edge) if case % 2 else rng.randrange(len(whole) - 9)
        strings = [whole[start : start + rng.randint(1, 12)]]
        before = tokenizer.spell(ids[:prompt])[-len(strings[0]) :]
        stream = tokenizer.stream(continuing=True)
        options, stats = SamplingOptions(), GenerationStats()
        found = Generation(ids[:prompt], options, stats, iter(ids[prompt:]), stream, StopStrings(strings, before))
        text = "".join(found)
        parts = {"prompt_ids": ids[:prompt], "new_ids": ids[prompt:], "strings": strings}
        yield {**parts, "text": text, "taken": len(found.ids), "found": stats.stop_reason == "stop_string"}
