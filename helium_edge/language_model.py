"""`LanguageModel`: a loaded bundle that continues, scores and answers.

A model serves one caller at a time. Its cache is one conversation's: what the next call shares with the one before
is not run again where the call asks for that, as conversations do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, final

import numpy as np
from typing_extensions import Unpack

from helium_edge.bundle import Bundle, GenerationSection, manifest_hash
from helium_edge.bundle.load_chat import Conversations
from helium_edge.chat import check_messages
from helium_edge.errors import UsageError
from helium_edge.loaded_model import Model, Text
from helium_edge.runtime.generate import GenerationStats, generate
from helium_edge.runtime.lookahead import LookaheadRunner
from helium_edge.runtime.prompt_cache import load_prompt_cache, save_prompt_cache
from helium_edge.runtime.rows import all_rows, check_gives_rows
from helium_edge.runtime.runner import CachedRunner, Logits
from helium_edge.runtime.sampling import Sampler, SamplingOptions
from helium_edge.runtime.stop_strings import StopStrings
from helium_edge.runtime.text_generation import Generation
from helium_edge.runtime.token_cache import TokenCache


class Sampling(TypedDict, total=False):
    """How a text is generated; what is left out or None is the bundle's own default.

    Keys:
        max_new_tokens: Upper bound of the new tokens.
        temperature: 0 is greedy.
        top_k: Draw from the k most likely tokens, 0 from all.
        top_p: Draw from the smallest set of most likely tokens that reaches it.
        min_p: Draw from tokens at least this times as likely as the most likely one.
        repetition_penalty: Above 1, tokens that stand in the text already become less likely.
        no_repeat_ngram_size: No run of so many tokens comes twice; 0 allows all.
        suppress_tokens: Ids that are never chosen.
        stop_strings: Texts that end the generation; they are not part of what is returned.
        seed: Of the random draws; 0 when left out.
        lookahead: Most tokens to guess from the text so far and run in one call; 0 or None guesses none. What is
            generated stays the same.
    """

    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    no_repeat_ngram_size: int | None
    suppress_tokens: Sequence[int] | None
    stop_strings: Sequence[str] | None
    seed: int
    lookahead: int | None


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
        self._cache: TokenCache | None = TokenCache(runner)
        self._conversations: dict[str | None, Conversations] = {}

    @property
    def runner(self) -> CachedRunner:
        """The graphs with their KV cache; what a conversation has in it is then forgotten.

        Raises:
            UsageError: The model is closed.
        """
        cache = self.token_cache
        cache.forget()
        return cache.runner

    @property
    def token_cache(self) -> TokenCache:
        """The graphs with their KV cache and the tokens in it.

        Raises:
            UsageError: The model is closed.
        """
        if self._cache is None:
            raise self.closed_error()
        return self._cache

    @property
    def cache_len(self) -> int:
        """Tokens that fit in the cache, prompt and answer together."""
        return self.manifest.cache_len

    def close(self) -> None:
        """Give the memory of the graphs back; the model cannot run any more."""
        self._cache = None

    def stream(self, prompt: Text, *, reuse: bool = False, **sampling: Unpack[Sampling]) -> Generation:
        """Continue a prompt, piece by piece; work is done as the pieces are taken.

        Args:
            prompt: A text, or its token ids.
            reuse: Run only what the cache does not hold already, from the call before or from `load_cache`.
            **sampling: See `Sampling`.

        Raises:
            UsageError: A value outside its range, or an empty prompt.
            CacheFullError: The prompt does not fit in the cache.
        """
        ids = self.ids(prompt)
        return self._stream(ids, self.manifest.tokens.eos, sampling, reuse=reuse, continuing=bool(prompt))

    def generate(self, prompt: Text, **sampling: Unpack[Sampling]) -> str:
        """The whole continuation of a prompt, without the prompt; see `stream` for arguments and errors."""
        return "".join(self.stream(prompt, **sampling))

    def _stream(
        self, ids: list[int], eos: Sequence[int], sampling: Sampling, *, reuse: bool, continuing: bool
    ) -> Generation:
        most = sampling.get("lookahead") or 0
        cache = self.token_cache
        if most:
            check_gives_rows(cache.runner, self.manifest.logits)
        defaults, stats = self.manifest.generation, GenerationStats()
        options = sampling_options(defaults, sampling)
        stop_strings = sampling.get("stop_strings")
        rest = cache.follow(ids) if reuse else ids
        if not reuse:
            cache.reset()
        context = ids[: len(ids) - len(rest)]
        ahead = LookaheadRunner(cache, context, most) if most else None
        new_ids = generate(
            ahead or cache,
            rest,
            max_new_tokens=most_new_tokens(defaults, sampling, len(ids)),
            eos_ids=eos,
            sampler=Sampler(options),
            stats=stats,
            context=context,
        )
        if ahead is not None:
            new_ids = _settled(new_ids, ahead)
        stop = self._stop(defaults.stop_strings if stop_strings is None else stop_strings, ids)
        found = Generation(ids, options, stats, new_ids, self.tokenizer.stream(continuing=continuing), stop)
        found.reused_tokens = len(ids) - len(rest)
        found.ahead = ahead
        return found

    def _stop(self, strings: Sequence[str], ids: list[int]) -> StopStrings:
        """Stop strings behind a prompt, of which no more counts than they are long; a character has 4 bytes."""
        longest = max(map(len, strings), default=0)
        before = self.tokenizer.spell(ids[-4 * longest :]) if longest else ""
        return StopStrings(strings, before[-longest:])

    def conversations(self, template: str | None = None) -> Conversations:
        """Conversations as token ids, by one of the bundle's chat templates; None is the one called `default`.

        Raises:
            BundleError: The bundle has no chat template.
            UsageError: It has none of this name.
        """
        if template not in self._conversations:
            self._conversations[template] = Conversations(self.bundle, self.tokenizer, template)
        return self._conversations[template]

    def stream_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template: str | None = None,
        parse_special: bool = False,
        **sampling: Unpack[Sampling],
    ) -> Generation:
        """Answer a conversation, piece by piece; only what the cache does not hold already is run.

        Where the conversation does not fit, its oldest turns are left out; the system message stays.

        Args:
            messages: `role` (`system`, `user` or `assistant`) and `content` of each turn, the user's last.
            template: Which of the bundle's chat templates; None is the one called `default`.
            parse_special: Whether text of the turns that spells a special token becomes one.
            **sampling: See `Sampling`.

        Raises:
            BundleError: The bundle has no chat template.
            UsageError: No such template or conversation, one that the template refuses, or a value outside its
                range.
            CacheFullError: Not even the last turn fits.
        """
        cache, host = self.token_cache, self.conversations(template)
        answer = most_new_tokens(self.manifest.generation, sampling, 0)
        room = cache.cache_len - min(answer, cache.cache_len // 4)
        ids, dropped = host.fit(check_messages(messages), room, cache.ids, parse_special=parse_special)
        found = self._stream(self.known(ids), host.stop, sampling, reuse=True, continuing=False)
        found.dropped_messages = dropped
        return found

    def chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template: str | None = None,
        parse_special: bool = False,
        **sampling: Unpack[Sampling],
    ) -> str:
        """The answer to a conversation; see `stream_chat` for arguments and errors."""
        return "".join(self.stream_chat(messages, template=template, parse_special=parse_special, **sampling))

    def save_cache(self, path: str | os.PathLike[str], *, tokens: int | None = None) -> int:
        """Write what the cache holds to a file, or its first `tokens`, and return how many tokens they are.

        Raises:
            UsageError: The cache is empty, or the file cannot be written.
        """
        return save_prompt_cache(Path(path), self.token_cache, manifest_hash(self.bundle), tokens=tokens)

    def load_cache(self, path: str | os.PathLike[str]) -> int:
        """Fill the cache from a file of `save_cache` and return how many tokens it holds then.

        A prompt with `reuse`, or a conversation, that begins with these tokens is not run again so far.

        Raises:
            InputError: The file is missing, truncated, of another kind, or of another bundle.
        """
        return load_prompt_cache(Path(path), self.token_cache, manifest_hash(self.bundle))

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


def _settled(new_ids: Iterator[int], ahead: LookaheadRunner) -> Iterator[int]:
    """The ids, and behind the last one a cache without guesses."""
    try:
        yield from new_ids
    finally:
        ahead.settle()


def sampling_options(defaults: GenerationSection, sampling: Sampling) -> SamplingOptions:
    """How tokens are chosen: as asked for, else as the bundle says.

    Raises:
        UsageError: A value outside its range.
    """
    values = defaults.model_dump(include=set(_CHOICES))
    if not defaults.do_sample:
        values["temperature"] = 0.0
    values |= {name: value for name, value in sampling.items() if name in _CHOICES and value is not None}
    values["suppress_tokens"] = tuple(values["suppress_tokens"])
    return SamplingOptions(seed=sampling.get("seed", 0), **values)


_CHOICES = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_repeat_ngram_size", "suppress_tokens",
)  # fmt: skip


def most_new_tokens(defaults: GenerationSection, sampling: Sampling, prompt_tokens: int) -> int:
    """Upper bound of the new tokens: as asked for, else as the bundle says, which may count the prompt as well."""
    asked = sampling.get("max_new_tokens")
    if asked is not None:
        return asked
    if defaults.max_length is None:
        return defaults.max_new_tokens
    return max(1, min(defaults.max_new_tokens, defaults.max_length - prompt_tokens))


def _log_probability(row: Logits, token: int) -> float:
    shifted = row.astype(np.float64) - float(row.max())
    return float(shifted[token] - np.log(np.exp(shifted).sum()))
