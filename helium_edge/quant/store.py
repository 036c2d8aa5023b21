"""The quantized store: one set of integers for every target, each weight quantized when it is asked for.

Finding scales is the long part: those of a method that searches are kept in a folder, a shard per weight, named by
its name and a key over everything that decides about them: the bytes of the original, its shape and type, scheme,
method and `CODE_VERSION`. Codes are not kept: they follow from weights and scales by one rounding, which costs no
more than reading them would. A killed run loses one shard; several recipes and checkpoints can share a folder.
"""

from __future__ import annotations

import abc
import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from typing_extensions import override

from helium_edge.checkpoint import Checkpoint
from helium_edge.config import ModelConfig
from helium_edge.model.weights import read_weight
from helium_edge.quant.affine import QuantizedWeight, dequantize
from helium_edge.quant.methods import QuantMethod, find_method, round_with
from helium_edge.quant.plan import PlannedWeight, plan_weights
from helium_edge.quant.shard import FoundScales, read_shard, tensor_hash, write_shard
from helium_edge.recipe import Quantization

CODE_VERSION = 5
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


class WeightStore(abc.ABC):
    """The weights of a model as an export has them.

    Args:
        config: The model.
        plan: What happens to each matrix.

    Attributes:
        config: The model.
        plan: What happens to each matrix.
        names: All matrices, in the order of the forward pass.
    """

    def __init__(self, config: ModelConfig, plan: list[PlannedWeight]) -> None:
        self.config = config
        self.plan = plan
        self.names = [planned.name for planned in plan]

    @abc.abstractmethod
    def get(self, name: str) -> QuantizedWeight | torch.Tensor:
        """A matrix: quantized, or (N, K) float32 when its rule says skip.

        Raises:
            HeliumEdgeError: It cannot be read.
        """

    @abc.abstractmethod
    def vector(self, name: str) -> torch.Tensor:
        """A norm gain or a bias, float32; raises as `get`."""

    def dense(self, name: str) -> torch.Tensor:
        """The real values of a matrix as the exported graph has them, (N, K) float32; raises as `get`."""
        weight = self.get(name)
        return dequantize(weight) if isinstance(weight, QuantizedWeight) else weight


class QuantizedStore(WeightStore):
    """The weights of a checkpoint as a recipe wants them, each quantized when it is asked for.

    Args:
        checkpoint: Open for as long as the store is used; its files do not change meanwhile.
        quantization: The rules and the method.
        folder: Where scales are kept; created when the first ones are written.

    Raises:
        RecipeError: The rules do not fit the model; see `plan_weights`.
        ValueError: The method is one that needs a text.
    """

    def __init__(self, checkpoint: Checkpoint, quantization: Quantization, folder: Path) -> None:
        super().__init__(checkpoint.config, plan_weights(checkpoint.config, quantization))
        self._planned = {planned.name: planned for planned in self.plan}
        self._checkpoint = checkpoint
        self._method_name = quantization.method
        self._method = self._find_method(quantization.method)
        self._folder = folder
        self._keys: dict[str, str] = {}
        self._errors: dict[str, float] = {}

    @override
    def get(self, name: str) -> QuantizedWeight | torch.Tensor:
        """A matrix, with the scales of its shard when there is a sound one, else with those that are found now.

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
        return self._quantize(planned)

    @override
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
        """sha256 over the files of the weights and all that was done to them: equal stores hold equal numbers.

        Raises:
            CheckpointError: A file cannot be read.
        """
        hashes = self._checkpoint.hashes()
        schemes = [(planned.name, str(planned.scheme)) for planned in self.plan]
        identity = {
            "code": CODE_VERSION,
            "files": {name: hashes[name] for name in self._checkpoint.weight_files},
            "method": self._method_name,
            "rope_interleaved": self.config.rope_interleaved,
            "schemes": schemes,
            **self._more_identity(),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    def _more_identity(self) -> dict[str, str]:
        """What else decides about the numbers."""
        return {}

    @staticmethod
    def _find_method(name: str) -> QuantMethod:
        return find_method(name)

    def _report(self, planned: PlannedWeight) -> WeightReport:
        if planned.scheme is not None and planned.name not in self._errors:
            self._quantize(planned)
        error = self._errors.get(planned.name, 0.0)
        scheme = "float32" if planned.scheme is None else str(planned.scheme)
        return WeightReport(planned.name, planned.shape, scheme, planned.fallback, error, planned.nbytes)

    def _quantize(self, planned: PlannedWeight) -> QuantizedWeight:
        assert planned.scheme is not None
        name = planned.name
        # Not looked through for NaN: that would be a pass of its own, and the error tells.
        original = read_weight(self._checkpoint, name, finite=False)
        if not self._method.searches:
            weight, error = self._method.measure(original, planned.scheme)
        elif any(self._folder.glob(f"{name}-*.safetensors")):
            self._remember_key(planned, original)
            path, key = self._shard_path(name), self._keys[name]
            found = read_shard(path, key=key, scheme=planned.scheme, shape=planned.shape)
            if found is not None:
                self._errors[name] = found.relative_error
                return round_with(original, planned.scheme, found.scales, found.zero_points)
            weight, error = self._search(planned, original)
        else:
            weight, error = self._search(planned, original)
        if not math.isfinite(error):
            read_weight(self._checkpoint, name)  # says which tensor of which file, and how many values
        self._errors[name] = error
        return weight

    def _search(self, planned: PlannedWeight, original: torch.Tensor) -> tuple[QuantizedWeight, float]:
        assert planned.scheme is not None
        # The hash takes a quarter of the time of the search, and runs beside it.
        with ThreadPoolExecutor(1, thread_name_prefix="hash") as pool:
            hashing = pool.submit(self._remember_key, planned, original)
            weight, error = self._method.measure(original, planned.scheme)
            hashing.result()
        if math.isfinite(error):
            found = FoundScales(weight.scales, weight.zero_points, error)
            write_shard(
                self._shard_path(planned.name), found, key=self._keys[planned.name], method=self._method_name,
                scheme=planned.scheme, shape=planned.shape,
            )  # fmt: skip
        return weight, error

    def _shard_path(self, name: str) -> Path:
        return self._folder / f"{name}-{self._keys[name][:16]}.safetensors"

    def _remember_key(self, planned: PlannedWeight, weight: torch.Tensor) -> None:
        if planned.name not in self._keys:
            identity = {
                "code": CODE_VERSION,
                "dtype": str(weight.dtype),
                "method": self._method_name,
                "scheme": str(planned.scheme),
                "shape": list(weight.shape),
                "weight": tensor_hash(weight),
            }
            text = json.dumps(identity, sort_keys=True)
            self._keys[planned.name] = hashlib.sha256(text.encode()).hexdigest()
