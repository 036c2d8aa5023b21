"""The torch decoder behind the `Runner` protocol: the yardstick of parity level L1."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from helium_edge.model.decoder import HeliumDecoder
from helium_edge.runtime.runner import Logits, check_seek, check_tokens


class TorchRunner:
    """Runs a `HeliumDecoder`; `prefill` returns the logits of every token.

    Args:
        decoder: The decoder; its `cache_len` is the capacity.
        prefill_len: Longest chunk of one call; bounds memory, changes no result.
    """

    def __init__(self, decoder: HeliumDecoder, prefill_len: int = 128) -> None:
        config = decoder.config
        self.vocab_size = config.vocab_size
        self.cache_len = decoder.cache_len
        self._decoder = decoder
        self._prefill_len = prefill_len
        self._position = 0
        shape = (config.num_key_value_heads, decoder.cache_len, config.head_dim)
        self._past = [torch.zeros(shape) for _ in range(2 * config.num_hidden_layers)]

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return self._position

    def reset(self) -> None:
        """Start a new conversation."""
        self._position = 0

    def seek(self, position: int) -> None:
        """Keep the first tokens of the cache; see `RewindableRunner.seek`. Stale slots are never read."""
        check_seek(position, self.cache_len)
        self._position = position

    def prefill(self, tokens: Sequence[int]) -> Logits:
        """Append tokens; returns (len(tokens), V)."""
        check_tokens(tokens, position=self._position, cache_len=self.cache_len, vocab_size=self.vocab_size)
        chunks = [tokens[i : i + self._prefill_len] for i in range(0, len(tokens), self._prefill_len)]
        logits: Logits = torch.cat([self._step(chunk) for chunk in chunks]).numpy()
        return logits

    def decode(self, token: int) -> Logits:
        """Append one token; returns (V,)."""
        row: Logits = self.prefill([token])[0]
        return row

    @torch.inference_mode()
    def _step(self, tokens: Sequence[int]) -> torch.Tensor:
        ids = torch.tensor([list(tokens)], dtype=torch.int64)
        logits, new = self._decoder(ids, torch.tensor([self._position]), self._past)
        end = self._position + len(tokens)
        for buffer, rows in zip(self._past, new, strict=True):
            buffer[:, self._position : end] = rows
        self._position = end
        result: torch.Tensor = logits[0]
        return result
