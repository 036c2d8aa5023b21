"""A bundle that has been built is run before it is published: its golden trace, and a short comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from helium_edge.bundle import Bundle, Manifest, record_steadiest
from helium_edge.checkpoint import Checkpoint
from helium_edge.generation import LanguageModel, language_model, text_model
from helium_edge.parity import ParityReport
from helium_edge.parity.check import check_texts, quick_check
from helium_edge.parity.text_report import TextReport
from helium_edge.progress import Progress
from helium_edge.quant import WeightStore
from helium_edge.recipe import Recipe
from helium_edge.targets.loading import target_of
from helium_edge.tasks import LANGUAGE_MODEL, TEXT_TASKS, Task
from helium_edge.texts import LANGUAGES, TextSource, evaluation_text

GOLDEN_PROMPT = "The device"
_PROMPT_WORDS = 6
ROUNDING = 3e-2
"""Relative error of logits, times the root of the layers, between kernels that round activations differently: x86
against ARM (docs/arm64.md), against wasm, which rounds none, and against WebGPU, which was furthest off."""

QUICK_WINDOW = 96
"""Tokens of one conversation in the check that an export makes."""

QUICK_TOKENS = 2000
"""About as many tokens of text does that check run through an encoder or a classifier."""


def try_out(
    bundle: Bundle,
    original: Checkpoint | None,
    weights: WeightStore,
    recipe: Recipe,
    threads: int,
    progress: Progress,
) -> tuple[Manifest, ParityReport | TextReport | None]:
    """Run a bundle that is still being written, and compare it with its original if one is given.

    Args:
        bundle: The bundle.
        original: The checkpoint; None only runs the bundle.
        weights: What was exported.
        recipe: By which it was.
        threads: Threads within an operator; 0 lets the runtime choose.
        progress: Receives stages.

    Returns:
        The manifest, with the golden trace of a language model, and the report.
    """
    return _RUNS[bundle.manifest.task](bundle, original, weights, recipe, threads, progress)


def golden_prompts() -> list[str]:
    """What the prompt of a golden trace is chosen of: a short one, and beginnings of built-in texts."""
    texts = [evaluation_text(language).split("\n\n") for language in reversed(LANGUAGES)]
    # Second paragraphs first: those of helium-tiny that are steady come early.
    parts = [text[number] for number in (1, 0) for text in texts]
    return [GOLDEN_PROMPT, *(" ".join(part.split()[:_PROMPT_WORDS]) for part in parts)]


def _encoded(model: LanguageModel, most: int) -> list[tuple[str, list[int]]]:
    """The prompts with their ids; beyond the first, those that simple hosts run in one call of `most` tokens."""
    first, *others = [(text, model.ids(text)) for text in golden_prompts()]
    return [first, *(each for each in others if len(each[1]) <= most)]


def _run_decoder(
    bundle: Bundle,
    original: Checkpoint | None,
    weights: WeightStore,
    recipe: Recipe,
    threads: int,
    progress: Progress,
) -> tuple[Manifest, ParityReport | None]:
    """Run a language model that has been built: its golden trace, and the short comparison if asked for."""
    progress.stage("run")
    model = language_model(bundle, threads=threads)
    arithmetic = target_of(bundle).arithmetic(recipe, weights.plan)
    rounds = arithmetic.rounds or recipe.kv_cache != "float32"
    golden = record_steadiest(
        model.runner,
        _encoded(model, bundle.manifest.prefill_len),
        eos_ids=bundle.manifest.tokens.eos,
        rounding=ROUNDING * math.sqrt(weights.config.num_hidden_layers) if rounds else 0.0,
    )
    manifest = bundle.manifest.model_copy(update={"golden": golden})
    if original is None:
        return manifest, None
    report = quick_check(model, original, weights, recipe, window_len=QUICK_WINDOW, progress=progress)
    return manifest, report


def _run_text_model(
    bundle: Bundle,
    original: Checkpoint | None,
    weights: WeightStore,
    recipe: Recipe,
    threads: int,
    progress: Progress,
) -> tuple[Manifest, TextReport | None]:
    """Run a classifier or encoder: one text, or texts against the original if asked for."""
    if original is not None:
        report = check_texts(
            bundle, original, weights, recipe, progress, TextSource(tokens=QUICK_TOKENS), threads=threads
        )
        return bundle.manifest, report
    progress.stage("run")
    model = text_model(bundle, threads=threads)
    model.runner.run(model.ids(GOLDEN_PROMPT)[: model.max_tokens])
    return bundle.manifest, None


_Run = Callable[
    [Bundle, Checkpoint | None, WeightStore, Recipe, int, Progress],
    tuple[Manifest, ParityReport | TextReport | None],
]
_RUNS: Mapping[Task, _Run] = {LANGUAGE_MODEL: _run_decoder, **dict.fromkeys(TEXT_TASKS, _run_text_model)}
