"""A bundle that is loaded: `load` gives a `LanguageModel`, a `Classifier` or an `Encoder`.

The one place where bundle, tokenizer, runner and sampler come together; commands, benchmarks and parity stand on
it. A model serves one caller at a time: every call begins a new conversation in the same cache.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

import numpy as np
from typing_extensions import Self

from helium_edge.bundle import Bundle, Manifest, open_bundle
from helium_edge.errors import UsageError
from helium_edge.runtime.generate import GenerationStats, generate
from helium_edge.runtime.heads import HeadRunner, scores
from helium_edge.runtime.rows import all_rows
from helium_edge.runtime.runner import CachedRunner, Logits
from helium_edge.runtime.sampling import Sampler, SamplingOptions
from helium_edge.runtime.tokenizer import StreamDecoder, Tokenizer
from helium_edge.targets.loading import open_head, open_runner

Text = str | Sequence[int]
"""A text, or its token ids."""


class Model:
    """What all models have; a context manager, which closes the model.

    Attributes:
        bundle: The bundle that was loaded.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def manifest(self) -> Manifest:
        """What the bundle says of itself."""
        return self.bundle.manifest

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """Text to token ids and back."""
        return Tokenizer(self.bundle.path(self.manifest.tokenizer.file))

    def ids(self, text: Text) -> list[int]:
        """Token ids of a text, the special tokens of its template included; ids stay as they are.

        Raises:
            UsageError: The text holds a token that the model has no row for.
        """
        if not isinstance(text, str):
            return list(text)
        ids = self.tokenizer.encode(text)
        bad = next((token for token in ids if token in self.manifest.tokens.forbidden), None)
        if bad is not None:
            raise UsageError(
                f"the text holds the token {self.tokenizer.text_of(bad)} ({bad}), for which the model has no row"
            )
        return ids

    def close(self) -> None:
        """Give the memory of the graphs back; the model cannot run any more."""
        raise NotImplementedError

    def _closed(self) -> UsageError:
        return UsageError(f"{self.manifest.name}: the model is closed", hint="load the bundle again")


@final
class Generation(Iterator[str]):
    """A text as it is generated: iterate over its pieces.

    Attributes:
        prompt_ids: Token ids of the prompt.
        ids: The new ids so far.
        options: How tokens are chosen.
        stats: Times and counts, filled in along the way, and why it stopped.
    """

    def __init__(
        self,
        prompt_ids: list[int],
        options: SamplingOptions,
        stats: GenerationStats,
        new_ids: Iterator[int],
        decoder: StreamDecoder,
    ) -> None:
        self.prompt_ids = prompt_ids
        self.ids: list[int] = []
        self.options = options
        self.stats = stats
        self._pieces = self._decode(new_ids, decoder)

    def __next__(self) -> str:
        return next(self._pieces)

    def _decode(self, new_ids: Iterator[int], decoder: StreamDecoder) -> Iterator[str]:
        for token in new_ids:
            self.ids.append(token)
            if piece := decoder.push(token):
                yield piece
        if piece := decoder.finish():
            yield piece


@dataclass(frozen=True)
class Score:
    """How likely a continuation is.

    Attributes:
        log_probability: Of the whole continuation, nats.
        tokens: Its length.
        is_greedy: Whether every token is the most likely one.
    """

    log_probability: float
    tokens: int
    is_greedy: bool


@final
class LanguageModel(Model):
    """A model that continues text.

    Args:
        bundle: The bundle.
        runner: Runs its graphs.
    """

    def __init__(self, bundle: Bundle, runner: CachedRunner) -> None:
        super().__init__(bundle)
        self._runner: CachedRunner | None = runner

    @property
    def runner(self) -> CachedRunner:
        """The graphs with their KV cache.

        Raises:
            UsageError: The model is closed.
        """
        if self._runner is None:
            raise self._closed()
        return self._runner

    @property
    def cache_len(self) -> int:
        """Tokens that fit in the cache, prompt and answer together."""
        return self.manifest.cache_len

    def close(self) -> None:
        """Give the memory of the graphs back; the model cannot run any more."""
        self._runner = None

    def stream(
        self,
        prompt: Text,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> Generation:
        """Continue a prompt, piece by piece; work is done as the pieces are taken.

        Args:
            prompt: A text, or its token ids.
            max_new_tokens: Upper bound of the new tokens; None is the bundle's own.
            temperature: 0 is greedy; None is the bundle's own.
            top_k: Draw from the k most likely tokens, 0 from all; None is the bundle's own.
            top_p: Draw from the smallest set of most likely tokens that reaches it; None is the bundle's own.
            seed: Of the random draws.

        Raises:
            UsageError: A value outside its range, or an empty prompt.
            CacheFullError: The prompt does not fit in the cache.
        """
        defaults = self.manifest.generation
        if temperature is None:
            temperature = defaults.temperature if defaults.do_sample else 0.0
        options = SamplingOptions(
            temperature=temperature,
            top_k=defaults.top_k if top_k is None else top_k,
            top_p=defaults.top_p if top_p is None else top_p,
            seed=seed,
        )
        ids, stats = self.ids(prompt), GenerationStats()
        self.runner.reset()
        new_ids = generate(
            self.runner,
            ids,
            max_new_tokens=defaults.max_new_tokens if max_new_tokens is None else max_new_tokens,
            eos_ids=self.manifest.tokens.eos,
            sampler=Sampler(options),
            stats=stats,
        )
        return Generation(ids, options, stats, new_ids, self.tokenizer.stream(continuing=bool(prompt)))

    def generate(
        self,
        prompt: Text,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int = 0,
    ) -> str:
        """The whole continuation of a prompt, without the prompt; see `stream` for arguments and errors."""
        return "".join(
            self.stream(
                prompt,
                max_new_tokens=max_new_tokens,
                temperature=temperature,
                top_k=top_k,
                top_p=top_p,
                seed=seed,
            )
        )

    def logits(self, text: Text) -> Logits:
        """Logits after every token of a text, (T, V) float32: row t is the prediction of token t + 1.

        A bundle whose prefill returns the last row alone, as those of the shipped recipes do, takes a decode step
        for each token.

        Raises:
            UsageError: No tokens, or an id outside the vocabulary.
            CacheFullError: The text does not fit in the cache.
        """
        return np.concatenate(list(all_rows(self.runner, self.ids(text))))

    def score(self, context: Text, continuation: Text) -> Score:
        """How likely a continuation is after a context.

        Of two texts the whole is encoded at once, as a prompt is; from the first token on that is not one of the
        context alone, tokens belong to the continuation. Token ids are taken as they are.

        Raises:
            UsageError: One of the two has no tokens, or an id is outside the vocabulary.
            CacheFullError: Both together do not fit in the cache.
        """
        before = self.ids(context)
        if isinstance(context, str) and isinstance(continuation, str):
            whole = self.ids(context + continuation)
            same = (old == new for old, new in zip(before, whole, strict=False))
            split = next((index for index, equal in enumerate(same) if not equal), min(len(before), len(whole)))
        else:
            whole, split = before + self.ids(continuation), len(before)
        if split == 0 or split == len(whole):
            raise UsageError("a context and a continuation of at least one token each are needed")
        runner, total, is_greedy = self.runner, 0.0, True
        runner.reset()
        row = runner.prefill(whole[:split])[-1]
        for index, token in enumerate(whole[split:], start=split + 1):
            total += _log_probability(row, token)
            is_greedy = is_greedy and int(row.argmax()) == token
            if index < len(whole):
                row = runner.decode(token)
        return Score(total, len(whole) - split, is_greedy)


@dataclass(frozen=True)
class Label:
    """A label with its score.

    Attributes:
        label: Its name.
        score: As the model's kind has it: a share of 1, a probability of its own, or the value of a regression.
        logit: What the graph returned.
    """

    label: str
    score: float
    logit: float


@dataclass(frozen=True)
class LabelledToken:
    """A token of a text with its labels, best first."""

    id: int
    text: str
    labels: tuple[Label, ...] = field(default=())


class _HeadModel(Model):
    """A model that takes a whole text at once."""

    def __init__(self, bundle: Bundle, runner: HeadRunner) -> None:
        super().__init__(bundle)
        self._runner: HeadRunner | None = runner

    @property
    def runner(self) -> HeadRunner:
        """The graph.

        Raises:
            UsageError: The model is closed.
        """
        if self._runner is None:
            raise self._closed()
        return self._runner

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest text that it takes."""
        return self.manifest.prefill_len

    def close(self) -> None:
        """Give the memory of the graph back; the model cannot run any more."""
        self._runner = None


@final
class Classifier(_HeadModel):
    """A model that labels texts, or each token of a text."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels."""
        return self.manifest.head.labels if self.manifest.head is not None else ()

    @property
    def labels_tokens(self) -> bool:
        """Whether each token has labels; otherwise the text has."""
        return self.runner.signature.head == "token_classification"

    def classify(self, text: Text) -> tuple[Label, ...]:
        """All labels of a text, best first.

        Raises:
            UsageError: The model labels tokens, or the text is empty or too long.
        """
        if self.labels_tokens:
            raise UsageError(f"{self.manifest.name} labels tokens, not texts", hint="use classify_tokens")
        return self._ranked(self.runner.run(self.ids(text)))

    def classify_tokens(self, text: Text) -> tuple[LabelledToken, ...]:
        """Each token of a text with all labels, best first.

        Raises:
            UsageError: The model labels texts, or the text is empty or too long.
        """
        if not self.labels_tokens:
            raise UsageError(f"{self.manifest.name} labels texts, not tokens", hint="use classify")
        ids = self.ids(text)
        rows = self.runner.run(ids)
        return tuple(
            LabelledToken(token, self.tokenizer.decode([token]), self._ranked(row))
            for token, row in zip(ids, rows, strict=True)
        )

    def _ranked(self, logits: Logits) -> tuple[Label, ...]:
        problem = self.manifest.head.problem_type if self.manifest.head is not None else None
        found = scores(logits, problem)
        order = np.argsort(-logits, kind="stable")
        return tuple(Label(self.labels[at], float(found[at]), float(logits[at])) for at in order)


@final
class Encoder(_HeadModel):
    """A model that returns a vector for each token."""

    def hidden_states(self, text: Text) -> Logits:
        """Hidden states of the last layer, (T, C) float32.

        Raises:
            UsageError: The text is empty or too long.
        """
        return self.runner.run(self.ids(text))


AnyModel = LanguageModel | Classifier | Encoder


def load(
    bundle: str | os.PathLike[str], *, threads: int = 0, static: bool = False, unverified: bool = False
) -> AnyModel:
    """Load a bundle.

    Args:
        bundle: Its folder.
        threads: Threads within an operator; 0 lets the runtime choose.
        static: Use the graphs of static shape even where one graph serves both phases.
        unverified: Load a bundle whose checksums do not match.

    Raises:
        BundleError: It is damaged, or of a kind that this version does not know.
        MissingDependencyError: Its runtime is not installed.
        ResourceError: Not enough memory for the cache.
    """
    return open_model(open_bundle(Path(bundle), unverified=unverified), threads=threads, static=static)


def open_model(bundle: Bundle, *, threads: int = 0, static: bool = False) -> AnyModel:
    """Load a bundle that is opened already; it may be one that is still being written. See `load`."""
    if bundle.manifest.head is None:
        return language_model(bundle, threads=threads, static=static)
    return head_model(bundle, threads=threads)


def language_model(bundle: Bundle, *, threads: int = 0, static: bool = False) -> LanguageModel:
    """Load a bundle of a language model.

    Raises:
        BundleError: It is one of another model, or as of `load`.
    """
    bundle.manifest.decoder_spec()  # refuses other models
    return LanguageModel(bundle, open_runner(bundle, threads=threads, static=static))


def head_model(bundle: Bundle, *, threads: int = 0) -> Classifier | Encoder:
    """Load a bundle of a classifier or encoder.

    Raises:
        BundleError: It is one of a language model, or as of `load`.
    """
    runner = open_head(bundle, threads=threads)
    labels = bundle.manifest.head.labels if bundle.manifest.head is not None else ()
    return Classifier(bundle, runner) if labels else Encoder(bundle, runner)


def classifier(bundle: Bundle, *, threads: int = 0) -> Classifier:
    """Load a bundle of a classifier.

    Raises:
        BundleError: It is one of a language model, or as of `load`.
        UsageError: It is one of an encoder, which has no labels.
    """
    model = head_model(bundle, threads=threads)
    if isinstance(model, Classifier):
        return model
    raise UsageError(
        f"{bundle.folder}: {bundle.manifest.model.architecture} has no labels, it returns hidden states",
        hint="`helium-edge inspect` shows the output; an app reads it from the graph",
    )


def _log_probability(row: Logits, token: int) -> float:
    shifted = row.astype(np.float64) - float(row.max())
    return float(shifted[token] - np.log(np.exp(shifted).sum()))
