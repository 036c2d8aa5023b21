"""Our torch head behind the `HeadRunner` protocol: the yardstick of exported graphs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from typing_extensions import override

from helium_edge.model.head import HeliumHead
from helium_edge.runtime.heads import Array, HeadRunner, padded, real_rows
from helium_edge.signature import head_signature


class TorchHead(HeadRunner):
    """Runs a `HeliumHead` on padded texts, as an exported graph of `tokens` tokens does."""

    def __init__(self, head: HeliumHead, tokens: int) -> None:
        self.signature = head_signature(head.config, tokens)
        self._head = head

    @override
    @torch.inference_mode()
    def run(self, ids: Sequence[int]) -> Array:
        output: Array = self._head(torch.from_numpy(padded(self.signature, ids))).numpy()
        return real_rows(self.signature, output, ids)
