"""The torch decoder behind the `Runner` protocol: the yardstick of parity level L1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from typing_extensions import override

from helium_edge.model.decoder import HeliumDecoder
from helium_edge.runtime.chunked_runner import ChunkedRunner
from helium_edge.runtime.runner import Logits


class TorchRunner(ChunkedRunner):
    """Runs a `HeliumDecoder`; `prefill` returns the logits of every token.

    Args:
        decoder: The decoder; its `cache_len` is the capacity.
        prefill_len: Longest chunk of one call; bounds memory, changes no result.
    """

    def __init__(self, decoder: HeliumDecoder, prefill_len: int = 128) -> None:
        config = decoder.config
        super().__init__(config.vocab_size, decoder.cache_len, "all")
        self._decoder = decoder
        self._prefill_len = prefill_len
        shape = (config.num_key_value_heads, decoder.cache_len, config.head_dim)
        self._past = [torch.zeros(shape) for _ in range(2 * config.num_hidden_layers)]

    @override
    def _width(self, remaining: int, room: int) -> int:
        return min(remaining, self._prefill_len)

    @override
    @torch.inference_mode()
    def _run(self, width: int, tokens: Sequence[int]) -> Logits:
        ids = torch.tensor([list(tokens)], dtype=torch.int64)
        found, new = self._decoder(ids, torch.tensor([self._position]), self._past)
        for buffer, rows in zip(self._past, new, strict=True):
            buffer[:, self._position : self._position + len(tokens)] = rows
        logits: Logits = found[0].numpy()
        return logits
