"""Our torch classifier or encoder behind the `TextRunner` protocol: the yardstick of exported graphs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from typing_extensions import override

from helium_edge.model.text_model import TextModel
from helium_edge.runtime.text_runner import Array, TextRunner, padded, real_rows
from helium_edge.signature import text_signature


class TorchTextRunner(TextRunner):
    """Runs a `TextModel` on padded texts, as an exported graph of `tokens` tokens does."""

    def __init__(self, model: TextModel, tokens: int) -> None:
        self.signature = text_signature(model.config, tokens)
        self._model = model

    @override
    @torch.inference_mode()
    def run(self, ids: Sequence[int]) -> Array:
        output: Array = self._model(torch.from_numpy(padded(self.signature, ids))).numpy()
        return real_rows(self.signature, output, ids)
