"""Processors against those of transformers, and what they do at the edges."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from transformers.generation import logits_process as reference

from helium_edge.errors import UsageError
from helium_edge.runtime.processors import Processors
from helium_edge.runtime.sampling import Sampler, SamplingOptions

CASES = 300


def random_cases() -> Iterator[tuple[np.ndarray, list[int], SamplingOptions]]:
    """Logits, contexts that repeat themselves, and options of which about half are set."""
    rng = np.random.default_rng(11)
    for _ in range(CASES):
        size = int(rng.choice([5, 64, 1000]))
        logits = (rng.standard_normal(size) * rng.choice([0.5, 2.0, 6.0])).astype(np.float32)
        context = rng.integers(0, min(size, 7), int(rng.integers(1, 60))).tolist()
        yield (
            logits,
            context,
            SamplingOptions(
                temperature=float(rng.choice([0.3, 0.7, 1.0, 2.5])),
                top_k=int(rng.choice([0, 0, 3, 40])),
                top_p=float(rng.choice([1.0, 1.0, 0.9, 0.3])),
                min_p=float(rng.choice([0.0, 0.0, 0.05, 0.4, 1.0])),
                repetition_penalty=float(rng.choice([1.0, 1.3, 0.8, 5.0])),
                no_repeat_ngram_size=int(rng.choice([0, 0, 2, 3])),
                suppress_tokens=tuple(rng.choice(size, 2, replace=False).tolist()) if rng.random() < 0.5 else (),
            ),
        )


def transformers_probabilities(
    logits: np.ndarray, context: list[int], options: SamplingOptions
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """As `generate` of transformers builds its list, in float64 so that only its order and rules are compared."""
    processors = reference.LogitsProcessorList()
    if options.repetition_penalty != 1:
        processors.append(reference.RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    if options.no_repeat_ngram_size:
        processors.append(reference.NoRepeatNGramLogitsProcessor(options.no_repeat_ngram_size))
    if options.suppress_tokens:
        processors.append(reference.SuppressTokensLogitsProcessor(list(options.suppress_tokens)))
    if options.temperature != 1:
        processors.append(reference.TemperatureLogitsWarper(options.temperature))
    if options.top_k:
        processors.append(reference.TopKLogitsWarper(options.top_k))
    if options.top_p < 1:
        processors.append(reference.TopPLogitsWarper(options.top_p))
    processors.append(reference.MinPLogitsWarper(options.min_p))
    scores = processors(torch.tensor([context]), torch.from_numpy(logits)[None].double())
    return torch.softmax(scores, dim=-1)[0].numpy()


def test_distributions_are_those_of_transformers() -> None:
    changed = 0
    for logits, context, options in random_cases():
        expected = transformers_probabilities(logits, context, options)
        if np.isnan(expected).any():  # everything is ruled out
            with pytest.raises(UsageError, match="leave no token"):
                Sampler(options).probabilities(logits, context)
            continue
        found = Sampler(options).probabilities(logits, context)
        assert np.abs(found - expected).max() < 1e-6, options
        changed += not options.processors.are_idle
    assert changed > CASES / 2


def test_a_greedy_choice_is_made_after_the_processors() -> None:
    logits = np.array([3.0, 2.0, 1.0, -5.0], np.float32)
    assert Sampler(SamplingOptions(repetition_penalty=2.0)).pick(logits, [0]) == 1
    assert Sampler(SamplingOptions(suppress_tokens=(0, 1))).pick(logits) == 2
    # After 0 1 ... 0, a 1 would repeat the pair.
    assert Sampler(SamplingOptions(no_repeat_ngram_size=2, suppress_tokens=(0,))).pick(logits, [0, 1, 0]) == 2
    assert Sampler(SamplingOptions(temperature=0.0, top_k=1, min_p=1.0)).pick(logits) == 0


def test_draws_come_from_the_distribution() -> None:
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    options = SamplingOptions(temperature=1.0, min_p=0.4, repetition_penalty=1.5, suppress_tokens=(0,), seed=3)
    sampler = Sampler(options)
    expected = sampler.probabilities(logits, [1])
    counts = np.bincount([sampler.pick(logits, [1]) for _ in range(4000)], minlength=4) / 4000
    assert counts == pytest.approx(expected, abs=0.03)
    assert expected[0] == 0


def test_a_short_context_has_no_ngrams_and_one_of_one_token_is_every_token() -> None:
    zeros = np.zeros(4, np.float32)
    assert Processors(no_repeat_ngram_size=3).apply(zeros, [1, 1]).tolist() == [0, 0, 0, 0]
    assert Processors(no_repeat_ngram_size=1).apply(zeros, [1, 3]).tolist() == [0, -np.inf, 0, -np.inf]
    assert Processors(no_repeat_ngram_size=2).apply(zeros, []).tolist() == [0, 0, 0, 0]


def test_ids_outside_the_vocabulary_and_the_callers_logits_are_left_alone() -> None:
    logits = np.array([1.0, -1.0], np.float32)
    found = Processors(2.0, 1, (7,)).apply(logits, [5, 0])
    assert found.tolist() == [-np.inf, -1.0]
    assert logits.tolist() == [1.0, -1.0]
    assert Processors().apply(logits, [0]) is logits


@pytest.mark.parametrize(
    "options",
    [
        {"min_p": -0.1},
        {"min_p": 1.5},
        {"min_p": float("nan")},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
        {"no_repeat_ngram_size": -1},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))} .* is out of range; allowed: "):
        SamplingOptions(**options)  # type: ignore[arg-type]
