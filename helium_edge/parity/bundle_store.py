"""The weights of a bundle in place of those of a store: where integers were calibrated, nothing makes them anew.

A calibrated bundle is compared without its text and without a second calibration: the yardstick computes with the
integers of the bundle, and level L0 holds them against the digests that the export took of its store.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from typing_extensions import override

from helium_edge.bundle import Bundle
from helium_edge.config import ModelConfig
from helium_edge.parity.store_check import readback
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import QuantizedWeight, WeightStore, plan_weights
from helium_edge.quant.digests import tensor_digest
from helium_edge.recipe import Recipe
from helium_edge.targets.artifact import Artifact, WeightDifference, layer_of


class BundleStore(WeightStore):
    """The weights of a bundle, as its files have them.

    Args:
        bundle: The bundle.
        config: The model, of its checkpoint or of the bundle's own `config.json`.
        recipe: What it was exported by.

    Attributes:
        artifact: Where they are read.

    Raises:
        BundleError: A file is not readable, or its graphs are not built as ours are.
        MissingDependencyError: Packages that read it are not installed.
    """

    def __init__(self, bundle: Bundle, config: ModelConfig, recipe: Recipe) -> None:
        super().__init__(config, plan_weights(config, recipe.quantization))
        self.artifact = readback(bundle)

    @override
    def get(self, name: str) -> QuantizedWeight | Tensor:
        return self.artifact.get(name)

    @override
    def vector(self, name: str) -> Tensor:
        return self.artifact.vector(name)


def compare_digests(
    artifact: Artifact, digests: Mapping[str, str], progress: Progress = SILENT
) -> list[WeightDifference]:
    """Compare an artifact with what the export took of its store, one tensor at a time.

    Args:
        artifact: Read back from a bundle.
        digests: `quant.digests.tensor_digest` of every tensor by name, rounded to the artifact's type.
        progress: Advanced by each tensor.

    Returns:
        Every difference, in the order of the forward pass, and then those within the artifact itself.

    Raises:
        BundleError: A tensor of the artifact cannot be read.
    """
    found: list[WeightDifference] = []
    owners = {digest: name for name, digest in digests.items()}
    for name in (*artifact.names, *artifact.vectors):
        tensor = artifact.get(name) if name in artifact.names else artifact.vector(name)
        digest = tensor_digest(tensor, artifact.real)
        if digest != digests.get(name):
            said = _diagnose(tensor, digest, digests.get(name), owners, artifact.real)
            found.append(WeightDifference(name, layer_of(name), "", "digest", diagnosis=said))
        progress.advance(note=name)
    return found + artifact.differences()


def _diagnose(
    tensor: QuantizedWeight | Tensor,
    digest: str,
    expected: str | None,
    owners: Mapping[str, str],
    real: torch.dtype,
) -> str:
    """What a difference looks like: the exported numbers are not at hand, only ways to come to their digest."""
    if expected is None:
        return "the export has no such tensor"
    if digest in owners:
        return f"these are the numbers of {owners[digest]}"
    if isinstance(tensor, QuantizedWeight):
        if tensor.scheme.bits == 4 and tensor.shape[1] % 2 == 0:
            swapped = tensor.codes.view(len(tensor.codes), -1, 2).flip(-1).reshape(tensor.shape)
            if _is(tensor, swapped, tensor.scales, expected, real):
                return "nibbles swapped"
        flat = tensor.scales.T.shape
        for transposed in (tensor.scales.reshape(flat).T, tensor.scales.T.reshape(tensor.scales.shape)):
            if _is(tensor, tensor.codes, transposed.contiguous(), expected, real):
                return "scales transposed"
        return "codes or scales are not those that were exported"
    return "not the values that were exported"


def _is(weight: QuantizedWeight, codes: Tensor, scales: Tensor, expected: str, real: torch.dtype) -> bool:
    return tensor_digest(QuantizedWeight(weight.scheme, codes, scales, weight.zero_points), real) == expected
