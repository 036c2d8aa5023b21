"""The generate loop: prefill, pick, decode, until something ends it. Knows ids, not text, and no runtime."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from helium_edge.errors import UsageError
from helium_edge.runtime.runner import Runner
from helium_edge.runtime.sampling import Sampler

StopReason = Literal["eos", "length", "cache_full", "stop_string"]


@dataclass
class GenerationStats:
    """What a generation did; filled in while it runs, and right also when the caller stops early.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        new_tokens: Tokens yielded so far.
        prefill_seconds: Time for the prompt.
        time_to_first_token_seconds: Prefill and the choice of the first token.
        decode_steps: Tokens fed back one by one.
        decode_seconds: Time for these steps, each with the choice of its token; the caller's own time is not in.
        stop_reason: `eos`, `length` (max_new_tokens), `cache_full` or `stop_string`; None when the caller stopped.
    """

    prompt_tokens: int = 0
    new_tokens: int = 0
    prefill_seconds: float = 0.0
    time_to_first_token_seconds: float = 0.0
    decode_steps: int = 0
    decode_seconds: float = 0.0
    stop_reason: StopReason | None = None

    @property
    def prefill_tokens_per_second(self) -> float:
        """Speed on the prompt; 0 before it ran."""
        return self.prompt_tokens / self.prefill_seconds if self.prefill_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Speed after the first token; 0 when one token was all."""
        return self.decode_steps / self.decode_seconds if self.decode_seconds else 0.0


def generate(
    runner: Runner,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    eos_ids: Collection[int],
    sampler: Sampler,
    stats: GenerationStats,
    context: Sequence[int] = (),
) -> Iterator[int]:
    """Continue a prompt; the runner keeps what is in its cache, so a second call carries the conversation on.

    Args:
        runner: The decoder; not reset here.
        prompt: Token ids to append before the first new one.
        max_new_tokens: Upper bound of the yielded ids.
        eos_ids: Ids that end the text; they are not yielded.
        sampler: Chooses each token.
        stats: Filled in along the way.
        context: Ids that are in the cache already, for a sampler that looks at them.

    Returns:
        An iterator over the new ids. Work happens as it is consumed.

    Raises:
        UsageError: max_new_tokens below 1, an empty prompt or an id outside the vocabulary.
        CacheFullError: The prompt does not fit; nothing was written.
    """
    if max_new_tokens < 1:
        raise UsageError(f"max_new_tokens {max_new_tokens} is out of range; allowed: 1 and above")
    return _generate(runner, prompt, max_new_tokens, frozenset(eos_ids), sampler, stats, list(context))


def _generate(
    runner: Runner,
    prompt: Sequence[int],
    max_new_tokens: int,
    eos_ids: frozenset[int],
    sampler: Sampler,
    stats: GenerationStats,
    seen: list[int],
) -> Iterator[int]:
    start = time.perf_counter()
    logits = runner.prefill(prompt)
    stats.prompt_tokens = len(prompt)
    stats.prefill_seconds = time.perf_counter() - start
    seen.extend(prompt)
    token = sampler.pick(logits[-1], seen)
    stats.time_to_first_token_seconds = time.perf_counter() - start
    while token not in eos_ids:
        stats.new_tokens += 1
        yield token
        if stats.new_tokens == max_new_tokens:
            stats.stop_reason = "length"
            return
        # The last token was chosen from a full cache: there is no slot to feed it back.
        if runner.position >= runner.cache_len:
            stats.stop_reason = "cache_full"
            return
        start = time.perf_counter()
        logits = runner.decode(token)
        seen.append(token)
        token = sampler.pick(logits, seen)
        stats.decode_steps += 1
        stats.decode_seconds += time.perf_counter() - start
    stats.stop_reason = "eos"
