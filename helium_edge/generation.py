"""A bundle that is loaded: `open_model` gives a `LanguageModel`, a `Classifier` or an `Encoder`.

The one place where bundle, tokenizer, runner and sampler come together; commands, benchmarks and parity stand on
it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

from helium_edge.bundle import Bundle
from helium_edge.errors import UsageError
from helium_edge.language_model import LanguageModel, Sampling, Score
from helium_edge.loaded_model import Model, Text
from helium_edge.runtime.text_generation import Generation
from helium_edge.targets.loading import open_runner, open_scoring_runner, open_text_runner
from helium_edge.tasks import ENCODER, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, Task
from helium_edge.text_models import Classifier, Encoder, Label, LabelledToken

__all__ = [
    "Classifier", "Encoder", "Generation", "Label", "LabelledToken", "LanguageModel", "Model", "Sampling", "Score",
    "Text", "classifier", "language_model", "open_model", "text_model",
]  # fmt: skip

_TEXT_MODELS: Mapping[Task, type[Classifier | Encoder]] = {
    ENCODER: Encoder,
    SEQUENCE_CLASSIFICATION: Classifier,
    TOKEN_CLASSIFICATION: Classifier,
}

AnyModel = LanguageModel | Classifier | Encoder


def open_model(bundle: Bundle, *, threads: int = 0, static: bool = False, rows: bool = False) -> AnyModel:
    """Load a bundle that is opened already; it may be one that is still being written.

    Args:
        bundle: The bundle.
        threads: Threads within an operator; 0 lets the runtime choose.
        static: Use the graphs of static shape even where one graph serves both phases.
        rows: Have the logits of several tokens from one call where the graphs allow it, as `lookahead` needs.

    Raises:
        BundleError: It is damaged, or of a kind that this version does not know.
        MissingDependencyError: Its runtime is not installed.
        ResourceError: Not enough memory for the cache.
    """
    if bundle.manifest.task.has_cache:
        return language_model(bundle, threads=threads, static=static, rows=rows)
    return text_model(bundle, threads=threads)


def language_model(bundle: Bundle, *, threads: int = 0, static: bool = False, rows: bool = False) -> LanguageModel:
    """Load a bundle of a language model.

    Raises:
        BundleError: It is one of another model, or as of `open_model`.
    """
    bundle.manifest.decoder_spec()  # refuses other models
    runner = open_scoring_runner if rows and not static else functools.partial(open_runner, static=static)
    return LanguageModel(bundle, runner(bundle, threads=threads))


def text_model(bundle: Bundle, *, threads: int = 0) -> Classifier | Encoder:
    """Load a bundle of a classifier or encoder.

    Raises:
        BundleError: It is one of a language model, or as of `open_model`.
    """
    runner = open_text_runner(bundle, threads=threads)
    return _TEXT_MODELS[bundle.manifest.task](bundle, runner)


def classifier(bundle: Bundle, *, threads: int = 0) -> Classifier:
    """Load a bundle of a classifier.

    Raises:
        BundleError: It is one of a language model, or as of `open_model`.
        UsageError: It is one of an encoder, which has no labels.
    """
    model = text_model(bundle, threads=threads)
    if isinstance(model, Classifier):
        return model
    raise UsageError(
        f"{bundle.folder}: {bundle.manifest.model.architecture} has no labels, it returns hidden states",
        hint="`helium-edge inspect` shows the output; an app reads it from the graph",
    )
