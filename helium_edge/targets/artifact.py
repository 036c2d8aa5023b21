"""`Artifact`: the weights of a published bundle, read back from its files; parity level L0 compares them.

An artifact reads like the store, by the names of the checkpoint, whatever a target has fused, transposed or
repeated. It is read by what the graph computes, not by what its tensors are called: the gate is the matrix that
feeds the activation. One tensor is in memory at a time.

Shape legend: N output channels (rows), K input channels (columns), B scales in a row (blocks), G groups in a row.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from helium_edge.checkpoint.weight_map import expected_tensors
from helium_edge.config import ModelConfig
from helium_edge.documents import first_line
from helium_edge.errors import BundleError
from helium_edge.model.rope import rope_tables
from helium_edge.model.weights import EMBEDDING, HEAD, matrix_names, vector_names
from helium_edge.quant import QuantizedWeight, dequantize
from helium_edge.recipe import Scheme

DifferenceKind = Literal[
    "codes", "scales", "zero points", "values", "digest", "shape", "format", "constant", "place"
]


@dataclass(frozen=True, eq=False)
class StoredCodes:
    """A quantized matrix as a file holds it: real = scale * (code - zero point).

    Attributes:
        bits: 4 or 8.
        codes: (N, K) int8: symmetric ones around 0, asymmetric ones in [0, 15].
        scales: (N, B) float32; B is a multiple of the groups of the scheme, whose scale is then repeated.
        zero_points: (N, B) int8, or None.
    """

    bits: Literal[4, 8]
    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None = None

    def rows(self, rows: slice) -> StoredCodes:
        """Some of its output channels."""
        zeros = None if self.zero_points is None else self.zero_points[rows]
        return StoredCodes(self.bits, self.codes[rows], self.scales[rows], zeros)


@dataclass(frozen=True)
class WeightDifference:
    """One thing in an artifact that is not what it should be.

    Attributes:
        name: Tensor, or constant of the graph such as `rms_norm_eps`.
        layer: Its layer; None outside of the layers.
        graph: File or method where it was found; empty where all agree on it.
        kind: What differs. `place`: this graph uses other bytes than the others; `format`: not the scheme of the
            store.
        count: Elements that differ.
        total: Elements compared.
        largest: Largest |found - expected| / |expected|; against rms(expected) for single values that are 0.
        first: Index of the first one that differs; None where there is no single place.
        diagnosis: What it looks like, in a few words; empty when nothing common.
    """

    name: str
    layer: int | None
    graph: str
    kind: DifferenceKind
    count: int = 1
    total: int = 1
    largest: float = 0.0
    first: tuple[int, ...] | None = None
    diagnosis: str = ""

    def __str__(self) -> str:
        """The difference in one line."""
        where = f" ({self.graph})" if self.graph else ""
        at = "" if self.layer is None or self.name.startswith("model.") else f" of layer {self.layer}"
        if self.kind in ("codes", "scales", "zero points", "values"):
            first = "" if self.first is None else f", first at {list(self.first)}"
            said = f"{self.count} of {self.total} {self.kind} differ, by {self.largest:.2g} at most{first}"
            return f"{self.name}{at}{where}: {said}" + (f": {self.diagnosis}" if self.diagnosis else "")
        return f"{self.name}{at}{where}: {self.diagnosis}"


class Artifact(abc.ABC):
    """Weights of a bundle by name.

    Args:
        config: The model, as the bundle's `config.json` says.
        real: Type in which the files hold scales and real values.

    Attributes:
        names: All matrices, in the order of the forward pass, as in the store.
        vectors: All norm gains and biases.
    """

    def __init__(self, config: ModelConfig, real: torch.dtype = torch.float32) -> None:
        self.config = config
        self.real = real
        self.names = matrix_names(config)
        self.vectors = vector_names(config)

    @abc.abstractmethod
    def matrix(self, name: str) -> StoredCodes | Tensor:
        """A matrix as the file holds it: codes, or (N, K) float32.

        Raises:
            BundleError: It cannot be read.
        """

    @abc.abstractmethod
    def vector(self, name: str) -> Tensor:
        """A norm gain or bias, (N,) float32.

        Raises:
            BundleError: It cannot be read.
        """

    @abc.abstractmethod
    def differences(self) -> list[WeightDifference]:
        """What can be told without the store: graphs that use other bytes, constants against the config."""

    def get(self, name: str) -> QuantizedWeight | Tensor:
        """A matrix, as `QuantizedStore.get` returns it.

        Raises:
            BundleError: It cannot be read, or repeated scales of one group differ.
        """
        found = self.matrix(name)
        return found if isinstance(found, Tensor) else _as_weight(name, found)

    def dense(self, name: str) -> Tensor:
        """The real values of a matrix, (N, K) float32; raises as `get`."""
        weight = self.get(name)
        return dequantize(weight) if isinstance(weight, QuantizedWeight) else weight


def _as_weight(name: str, found: StoredCodes) -> QuantizedWeight:
    columns, blocks = found.codes.shape[1], found.scales.shape[1]
    group = None if found.bits == 8 else columns // blocks
    try:
        scheme = Scheme(bits=found.bits, group_size=group, symmetric=found.zero_points is None)
        zeros = None if found.zero_points is None else _merge(found.zero_points, scheme)
        return QuantizedWeight(scheme, found.codes, _merge(found.scales, scheme), zeros)
    except (ValueError, ValidationError) as error:
        raise BundleError(f"tensor {name}: not a weight in a scheme of ours: {first_line(error)}") from error


def _merge(values: Tensor, scheme: Scheme) -> Tensor:
    """(N, B) to (N, G): a per-channel value is repeated over the row."""
    if scheme.group_size is not None:
        return values
    if not bool((values == values[:, :1]).all()):
        raise ValueError("the repeated scales of a row differ")
    return values[:, :1].contiguous()


def row_groups(config: ModelConfig, names: Sequence[str], sizes: Sequence[int]) -> list[list[tuple[str, slice]]]:
    """Which rows of fused matrices belong to which weight.

    Args:
        config: The model.
        names: Weights in the order in which they are stacked.
        sizes: Rows of each fused matrix, in order.

    Returns:
        For each fused matrix, its weights and their rows.

    Raises:
        BundleError: The rows do not come out even.
    """
    shapes = {name: tensor.shape for name, tensor in expected_tensors(config).items()}
    shapes.setdefault(HEAD, shapes[EMBEDDING])  # tied
    pending = list(names)
    result = []
    for size in sizes:
        group: list[tuple[str, slice]] = []
        done = 0
        while done < size and pending:
            name = pending.pop(0)
            group.append((name, slice(done, done + shapes[name][0])))
            done += shapes[name][0]
        if done != size:
            raise BundleError(f"a matrix of {size} rows does not hold {', '.join(name for name, _ in group)}")
        result.append(group)
    if pending:
        raise BundleError(f"no matrix holds {pending[0]}")
    return result


def layer_of(name: str) -> int | None:
    """The layer in a tensor's name, or None."""
    parts = name.split(".")
    return int(parts[2]) if name.startswith("model.layers.") else None


def wrong_constant(
    name: str, layer: int | None, graph: str, value: float, expected: float, *, tolerance: float = 1e-6
) -> list[WeightDifference]:
    """The difference, if any, of a number in a graph from what the config says."""
    if abs(value - expected) <= tolerance * abs(expected):
        return []
    largest = abs(value - expected) / abs(expected) if expected else math.inf
    said = f"{value:g}, not {expected:g}"
    return [WeightDifference(name, layer, graph, "constant", largest=largest, diagnosis=said)]


def wrong_table(
    name: str, layer: int | None, graph: str, found: Tensor | None, config: ModelConfig, *, tolerance: float = 1e-6
) -> list[WeightDifference]:
    """The difference, if any, of a RoPE table `rope.cos` or `rope.sin` from that of the config.

    Args:
        name: Which one.
        layer: Its layer, None for the table of all layers.
        graph: File or method.
        found: (S, D/2), or None when the graph has no such table.
        config: The model.
        tolerance: Largest difference that is rounding: of the machine that made it, or of float16.
    """
    width = config.head_dim // 2
    if found is None or found.dim() != 2 or found.shape[1] != width:
        return [WeightDifference(name, layer, graph, "constant", diagnosis="the graph has no such table")]
    expected = rope_tables(config.rope_theta, config.head_dim, len(found))[name == "rope.sin"]
    delta = (found.to(torch.float32) - expected).abs()
    wrong = ~(delta <= tolerance)
    if not bool(wrong.any()):
        return []
    first = tuple(int(index) for index in wrong.nonzero()[0])
    said = f"not the table of rope_theta {config.rope_theta:g}"
    return [
        WeightDifference(
            name, layer, graph, "constant", int(wrong.sum()), wrong.numel(), float(delta.max()), first, said
        )
    ]


def wrong_scales(
    name: str, layer: int, graph: str, found: Tensor | None, expected: Tensor, other: Tensor
) -> list[WeightDifference]:
    """The difference, if any, of the scales of an int8 cache in a graph from those that were calibrated.

    Args:
        name: Of the scales.
        layer: Their layer.
        graph: File or method.
        found: As many as `expected`, of any shape; None when the graph has none.
        expected: What they must be, bit for bit.
        other: Those of the other side of the cache.
    """
    if found is None or found.dtype != expected.dtype or found.numel() != expected.numel():
        said = "the graph has no such scales" if found is None else f"{found.dtype} {tuple(found.shape)}"
        return [WeightDifference(name, layer, graph, "shape", diagnosis=said)]
    found = found.reshape(expected.shape)
    wrong = found != expected  # NaN is never right
    if not bool(wrong.any()):
        return []
    ratio = found[wrong].double() / expected[wrong].double()
    said = ""
    if torch.equal(found, other):
        said = "these are the scales of the other side of the cache"
    elif int(wrong.sum()) == 1:
        said = f"one scale changed, to {float(ratio[0]):.4g} times itself"
    first = tuple(int(index) for index in wrong.nonzero()[0])
    largest = float((ratio - 1).abs().max())
    return [WeightDifference(name, layer, graph, "scales", int(wrong.sum()), wrong.numel(), largest, first, said)]
