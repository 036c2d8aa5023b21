"""The store of `method: calibrated`: all weights are found in one walk over a text, and then read from shards."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from helium_edge.checkpoint import Checkpoint
from helium_edge.config import ModelConfig
from helium_edge.errors import ResourceError
from helium_edge.model.weights import read_weight
from helium_edge.progress import SILENT, Progress
from helium_edge.quant.affine import QuantizedWeight
from helium_edge.quant.calibrated.results import ShardResults
from helium_edge.quant.calibrated.walk import DATA_FREE, Walk, WalkOptions
from helium_edge.quant.methods import QuantMethod
from helium_edge.quant.parallel import pieces_alone
from helium_edge.quant.store import CODE_VERSION, QuantizedStore, WeightReport
from helium_edge.recipe import Calibration, Quantization

LARGE = 200_000_000
"""Parameters from which on a round of refit and descent costs more than it is worth."""


def rounds_for(config: ModelConfig, options: Calibration) -> int:
    """Rounds of refit and descent: those asked for, else by the size of the model."""
    if options.rounds is not None:
        return options.rounds
    return 1 if config.num_parameters > LARGE else 2


class CalibratedStore(QuantizedStore):
    """The weights of a checkpoint, calibrated on a text.

    Args:
        checkpoint: Open for as long as the store is used; its files do not change meanwhile.
        quantization: The rules, and the options of the method.
        folder: Where codes, scales and factors are kept; created when the first ones are written.
        texts: Token ids to calibrate on, each a conversation that starts as one does.

    Attributes:
        options: How it is calibrated, defaults filled in.
        texts_sha256: Of the token ids.
        tokens: How many there are.

    Raises:
        RecipeError: The rules do not fit the model; see `plan_weights`.
    """

    def __init__(
        self, checkpoint: Checkpoint, quantization: Quantization, folder: Path, texts: Sequence[Sequence[int]]
    ) -> None:
        super().__init__(checkpoint, quantization, folder)
        asked = quantization.calibration or Calibration()
        self.options = WalkOptions(asked.damping, rounds_for(checkpoint.config, asked), asked.folds)
        self.tokens = sum(map(len, texts))
        self._texts = [list(text) for text in texts]
        self.texts_sha256 = hashlib.sha256(json.dumps(self._texts).encode()).hexdigest()
        self._walk: tuple[Walk, ShardResults] | None = None

    @property
    def steps(self) -> int:
        """How often `prepare` advances its progress."""
        return self.config.num_hidden_layers + 1

    def prepare(self, progress: Progress = SILENT) -> None:
        """Find all weights, or what is missing of them; nothing where that has been done.

        Args:
            progress: Advanced by each layer, and once for the head.

        Raises:
            CheckpointError: An original cannot be read or is not finite.
            ResourceError: No space for a shard.
            UsageError: The folder cannot be written.
        """
        if self._walk is None:
            with pieces_alone():
                self._walk = self._run(progress)

    @override
    def get(self, name: str) -> QuantizedWeight | Tensor:
        walk, results = self._found()
        if self._planned[name].scheme is None:
            return walk.folds.apply(name, read_weight(self._checkpoint, name))
        weight = results.read(name)
        if weight is None:  # damaged since; what is sound of the rest is taken as it is
            with pieces_alone():
                self._walk = self._run(SILENT)
            weight = self._walk[1].read(name)
        if weight is None:
            raise ResourceError(f"{self._folder}: what was written there cannot be read back: {name}")
        return weight

    @override
    def vector(self, name: str) -> Tensor:
        """A norm gain or a bias, float32, with the factors that were moved into the matrices taken out of it."""
        return self._found()[0].folds.apply(name, read_weight(self._checkpoint, name))

    @override
    def reports(self) -> list[WeightReport]:
        """Reports of all matrices in order; the errors are against the originals with their factors."""
        self._errors = dict(self._found()[1].errors)
        return super().reports()

    def _found(self) -> tuple[Walk, ShardResults]:
        self.prepare()
        assert self._walk is not None
        return self._walk

    def _run(self, progress: Progress) -> tuple[Walk, ShardResults]:
        originals = _Originals(self._checkpoint)
        identity = {
            "code": CODE_VERSION,
            "options": dataclasses.asdict(self.options),
            "schemes": {planned.name: str(planned.scheme) for planned in self.plan},
            "texts": self.texts_sha256,
        }
        for recalled in (True, False):
            results = ShardResults(self._folder, self.plan, originals, identity)
            walk = Walk(self.config, self.plan, originals, self._texts, self.options, results)
            if recalled and walk.recall():
                break
        else:
            walk.run(progress)
        return walk, results

    @override
    def _more_identity(self) -> dict[str, str]:
        # Kernels add up in an order of their own on other processors: the integers themselves are told apart.
        return {"calibrated": self._found()[1].digest}

    @staticmethod
    @override
    def _find_method(name: str) -> QuantMethod:
        del name
        return DATA_FREE


class _Originals:
    """Tensors of a checkpoint, in their stored type."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def read(self, name: str) -> torch.Tensor:
        """A tensor, which is finite."""
        return read_weight(self._checkpoint, name)
