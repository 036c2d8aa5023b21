"""The quantized store: one set of integers for every target, computed once, one tensor at a time, resumable.

A weight is a shard in a folder, named by its name and a key over everything that decides about its integers:
the bytes of the original, its shape and type, scheme, method and `CODE_VERSION`. A killed run loses one shard;
several recipes and checkpoints can share a folder. Unquantized weights are not stored.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from helium_edge.checkpoint import Checkpoint
from helium_edge.model.weights import read_weight, vector_names
from helium_edge.quant.affine import QuantizedWeight, dequantize
from helium_edge.quant.methods import find_method
from helium_edge.quant.plan import PlannedWeight, plan_weights
from helium_edge.quant.shard import Shard, read_shard, tensor_hash, write_shard
from helium_edge.recipe import Quantization

CODE_VERSION = 1
"""Raised whenever the same input would give other codes or scales, or the shards another layout."""


@dataclass(frozen=True)
class WeightReport:
    """What became of one matrix.

    Attributes:
        name: The weight.
        shape: (N, K).
        scheme: Its format, `float32` when it was skipped.
        fallback: Whether that is the fallback of its rule.
        relative_error: rms(weight - dequantized) / rms(weight).
        nbytes: Bytes of codes, scales and zero points, or of float32 weights.
    """

    name: str
    shape: tuple[int, int]
    scheme: str
    fallback: bool
    relative_error: float
    nbytes: int


class QuantizedStore:
    """The weights of a checkpoint as a recipe wants them.

    Args:
        checkpoint: Open for as long as the store is used; its files do not change meanwhile.
        quantization: The rules and the method.
        folder: Where shards are kept; created when the first one is written.

    Attributes:
        config: The model.
        plan: What happens to each matrix.
        names: All matrices, in the order of the forward pass.

    Raises:
        RecipeError: The rules do not fit the model; see `plan_weights`.
    """

    def __init__(self, checkpoint: Checkpoint, quantization: Quantization, folder: Path) -> None:
        self.config = checkpoint.config
        self.plan = plan_weights(checkpoint.config, quantization)
        self.names = [planned.name for planned in self.plan]
        self._planned = {planned.name: planned for planned in self.plan}
        self._checkpoint = checkpoint
        self._method_name = quantization.method
        self._method = find_method(quantization.method)
        self._folder = folder
        self._keys: dict[str, str] = {}
        self._errors: dict[str, float] = {}

    def get(self, name: str) -> QuantizedWeight | torch.Tensor:
        """A matrix, from its shard when there is a sound one, else quantized now and saved.

        Returns:
            The quantized weight, or (N, K) float32 when its rule says skip.

        Raises:
            CheckpointError: The original cannot be read or is not finite.
            ResourceError: No space for the shard.
            UsageError: The folder cannot be written.
        """
        planned = self._planned[name]
        if planned.scheme is None:
            return read_weight(self._checkpoint, name).to(torch.float32)
        return self._shard(planned).weight

    def dense(self, name: str) -> torch.Tensor:
        """The real values of a matrix as the exported graph has them, (N, K) float32; raises as `get`."""
        weight = self.get(name)
        return dequantize(weight) if isinstance(weight, QuantizedWeight) else weight

    def vector(self, name: str) -> torch.Tensor:
        """A norm gain or a bias, float32.

        Raises:
            CheckpointError: It cannot be read or is not finite.
        """
        return read_weight(self._checkpoint, name).to(torch.float32)

    def reports(self) -> list[WeightReport]:
        """Reports of all matrices in order; computes what is missing, and raises as `get`."""
        return [self._report(planned) for planned in self.plan]

    def fingerprint(self) -> str:
        """sha256 over the identity of every weight, quantized or not: equal stores hold equal numbers.

        Raises:
            CheckpointError: A weight cannot be read or is not finite.
        """
        keys = [(name, self._key(self._planned[name], None)) for name in self.names]
        keys += [(name, tensor_hash(self.vector(name))) for name in vector_names(self.config)]
        return hashlib.sha256(json.dumps(keys).encode()).hexdigest()

    def _report(self, planned: PlannedWeight) -> WeightReport:
        if planned.scheme is None:
            error = 0.0
        elif planned.name in self._errors:
            error = self._errors[planned.name]
        else:
            error = self._shard(planned).relative_error
        scheme = "float32" if planned.scheme is None else str(planned.scheme)
        return WeightReport(planned.name, planned.shape, scheme, planned.fallback, error, planned.nbytes)

    def _shard(self, planned: PlannedWeight) -> Shard:
        assert planned.scheme is not None
        name = planned.name
        # Read at most once per call: an embedding is hundreds of megabytes.
        original = None if name in self._keys else read_weight(self._checkpoint, name)
        key = self._key(planned, original)
        path = self._folder / f"{name}-{key[:16]}.safetensors"
        shard = read_shard(path, key=key, scheme=planned.scheme, shape=planned.shape)
        if shard is None:
            original = read_weight(self._checkpoint, name) if original is None else original
            shard = Shard(*self._method.measure(original, planned.scheme))
            write_shard(path, shard, key=key, method=self._method_name)
        self._errors[name] = shard.relative_error
        return shard

    def _key(self, planned: PlannedWeight, original: torch.Tensor | None) -> str:
        if planned.name not in self._keys:
            weight = read_weight(self._checkpoint, planned.name) if original is None else original
            identity = {
                "code": CODE_VERSION,
                "dtype": str(weight.dtype),
                "method": None if planned.scheme is None else self._method_name,
                "scheme": None if planned.scheme is None else str(planned.scheme),
                "shape": list(weight.shape),
                "weight": tensor_hash(weight),
            }
            text = json.dumps(identity, sort_keys=True)
            self._keys[planned.name] = hashlib.sha256(text.encode()).hexdigest()
        return self._keys[planned.name]
