"""Are the peers given the same model? Their logits, by position, against the float32 decoder of helium-edge."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from helium_edge.checkpoint import Checkpoint
from helium_edge.model.decoder import HeliumDecoder
from helium_edge.model.weights import read_weight
from helium_edge.runtime.runner import Logits
from helium_edge.runtime.torch_runner import TorchRunner
from peer.engine import PeerEngine

PROMPT, STEPS = 13, 6


@dataclass(frozen=True)
class _Float32Weights:
    """A `helium_edge.model.parts.WeightSource` over the checkpoint itself."""

    checkpoint: Checkpoint

    def dense(self, name: str) -> torch.Tensor:
        return read_weight(self.checkpoint, name).float()

    vector = dense


def logits_of(checkpoint: Checkpoint, ids: Sequence[int]) -> Logits:
    """Logits (len(ids), V) of a checkpoint in float32, by the decoder of helium-edge."""
    decoder = HeliumDecoder(checkpoint.config, _Float32Weights(checkpoint), cache_len=len(ids))
    return TorchRunner(decoder).prefill(ids)


class Agreement:
    """The right logits of one text of random ids: a prompt at once, then single steps."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        draw = random.Random(0)
        vocab_size = checkpoint.config.vocab_size
        self._ids = [draw.randrange(min(4, vocab_size - 1), vocab_size) for _ in range(PROMPT + STEPS)]
        rows = logits_of(checkpoint, self._ids)[PROMPT - 1 :]
        self._expected = np.concatenate([rows, rows[-1:]])  # the last step is asked for twice

    def of(self, engine: PeerEngine) -> float:
        """Largest difference of a logit, by the rms of all logits.

        Raises:
            PeerError: The peer failed.
        """
        answer = engine.ask("logits", prompt=self._ids[:PROMPT], then=self._ids[PROMPT:])
        difference = np.abs(np.array(answer["logits"]) - self._expected).max()
        return float(difference / np.sqrt(np.mean(self._expected**2)))
