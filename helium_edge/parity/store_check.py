"""Level L0: are the bytes in the artifact those of the quantized store?

Everything is compared exactly; where a format rounds real values (CoreML holds float16), with the rounded ones.
A difference comes with what it looks like, since a packing bug has few shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from helium_edge.bundle import Bundle
from helium_edge.config import ModelConfig
from helium_edge.model.rope import reorder_interleaved_rows, restore_interleaved_rows
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import QuantizedWeight
from helium_edge.targets import load_target
from helium_edge.targets.artifact import Artifact, DifferenceKind, StoredCodes, WeightDifference, layer_of

"""Called with the name of each tensor that was compared."""


class Store(Protocol):
    """What the artifact is compared with; `QuantizedStore` is one."""

    config: ModelConfig

    def get(self, name: str) -> QuantizedWeight | Tensor:
        """A matrix: codes and scales, or (N, K) float32."""
        ...

    def vector(self, name: str) -> Tensor:
        """A norm gain or bias, (N,) float32."""
        ...


def readback(bundle: Bundle) -> Artifact:
    """Read the weights of a bundle back out of its files.

    Raises:
        BundleError: A file is not readable, or its graphs are not built as ours are.
        RecipeError: The bundle is of a target that this version does not know.
        MissingDependencyError: The extra of its target is not installed.
    """
    return load_target(bundle.manifest.target.name).read_back(bundle)


def compare_store(artifact: Artifact, store: Store, progress: Progress = SILENT) -> list[WeightDifference]:
    """Compare an artifact with a store, one tensor at a time.

    Args:
        artifact: Read back from a bundle.
        store: The quantized weights that it should hold.
        progress: Advanced by each tensor.

    Returns:
        Every difference, in the order of the forward pass, and then those within the artifact itself: graphs that
        use other bytes than the first, constants that contradict the config. Empty when all is right.

    Raises:
        BundleError: A tensor of the artifact cannot be read.
        HeliumEdgeError: Whatever the store raises.
    """
    found: list[WeightDifference] = []
    for name in artifact.names:
        found += _compare_matrix(name, artifact, store)
        progress.advance(note=name)
    for name in artifact.vectors:
        expected = store.vector(name).to(artifact.real).to(torch.float32)
        found += _compare(name, "values", artifact.vector(name), expected)
        progress.advance(note=name)
    return found + artifact.differences()


def _compare_matrix(name: str, artifact: Artifact, store: Store) -> list[WeightDifference]:
    expected, found = store.get(name), artifact.matrix(name)
    if isinstance(expected, Tensor) or isinstance(found, Tensor):
        if not isinstance(expected, Tensor) or not isinstance(found, Tensor):
            said = f"{_format(found)} where the store has {_format(expected)}"
            return [WeightDifference(name, layer_of(name), "", "format", diagnosis=said)]
        return _compare(name, "values", found, expected.to(artifact.real).to(torch.float32))
    if found.bits != expected.scheme.bits or (found.zero_points is None) != expected.scheme.symmetric:
        said = f"{_format(found)} where the store has {expected.scheme}"
        return [WeightDifference(name, layer_of(name), "", "format", diagnosis=said)]
    blocks = found.scales.shape[1]
    differences = [
        *_compare(
            name, "codes", found.codes, expected.codes,
            lambda: _diagnose_codes(name, found, artifact.config, store),
        ),
        *_compare(
            name, "scales", found.scales, _repeat(expected.scales.to(artifact.real).to(torch.float32), blocks),
            lambda: _diagnose_scales(found.scales, expected.scales),
        ),
    ]  # fmt: skip
    if found.zero_points is not None and expected.zero_points is not None:
        points = _repeat(expected.zero_points, blocks)
        differences += _compare(name, "zero points", found.zero_points, points)
    return differences


def _format(weight: StoredCodes | QuantizedWeight | Tensor) -> str:
    if isinstance(weight, Tensor):
        return "real values"
    if isinstance(weight, QuantizedWeight):
        return str(weight.scheme)
    return f"{weight.bits}-bit codes {'without' if weight.zero_points is None else 'with'} zero points"


def _repeat(values: Tensor, blocks: int) -> Tensor:
    """(N, G) to (N, B), where B is a multiple of G; else as it is, to be found of another shape."""
    times, rest = divmod(blocks, values.shape[1])
    return values if rest or not times else values.repeat_interleave(times, dim=1)


def _compare(
    name: str, kind: DifferenceKind, found: Tensor, expected: Tensor, diagnose: Callable[[], str] | None = None
) -> list[WeightDifference]:
    layer = layer_of(name)
    if found.shape != expected.shape:
        said = f"{kind} are {tuple(found.shape)}, not {tuple(expected.shape)}"
        return [WeightDifference(name, layer, "", "shape", found.numel(), expected.numel(), diagnosis=said)]
    wrong = found != expected  # NaN is never right
    count = int(wrong.sum())
    if not count:
        return []
    delta = (found[wrong].to(torch.float64) - expected[wrong].to(torch.float64)).abs()
    size = expected[wrong].to(torch.float64).abs()
    if bool((size == 0).any()):
        size = size.clamp(min=float(expected.to(torch.float64).square().mean().sqrt()) or 1.0)
    first = tuple(int(index) for index in wrong.nonzero()[0])
    said = diagnose() if diagnose is not None else _diagnose_values(found, expected)
    return [
        WeightDifference(name, layer, "", kind, count, wrong.numel(), float((delta / size).max()), first, said)
    ]


# -- what it looks like


def _diagnose_codes(name: str, found: StoredCodes, config: ModelConfig, store: Store) -> str:
    expected = store.get(name)
    assert isinstance(expected, QuantizedWeight)
    codes = found.codes
    if found.bits == 4 and any(torch.equal(codes, swapped) for swapped in _swapped_nibbles(expected.codes)):
        return "nibbles swapped"
    said = _diagnose_rows(name, codes, expected.codes, config)
    if said:
        return said
    for other in _lookalikes(name, config):
        theirs = store.get(other)
        if isinstance(theirs, QuantizedWeight) and torch.equal(codes, theirs.codes):
            return f"these are the codes of {other}"
    if torch.equal(codes, -expected.codes):
        return "signs turned"
    shift = codes.to(torch.int16) - expected.codes
    if bool((shift == shift[0, 0]).all()):
        return f"all codes shifted by {int(shift[0, 0])}"
    return ""


def _swapped_nibbles(codes: Tensor) -> Iterator[Tensor]:
    """Codes with the two of each byte exchanged, packed along K or, as standard ONNX does, along N."""
    if codes.shape[1] % 2 == 0:
        yield codes.view(len(codes), -1, 2).flip(-1).reshape(codes.shape)
    if codes.shape[0] % 2 == 0:
        yield codes.T.reshape(-1, 2).flip(-1).reshape(codes.T.shape).T


def _diagnose_rows(name: str, found: Tensor, expected: Tensor, config: ModelConfig) -> str:
    """Rows in another order, or gone; works on codes and on real values."""
    dim = config.head_dim
    if ".q_proj." in name or ".k_proj." in name:
        for reorder in (reorder_interleaved_rows, restore_interleaved_rows):
            if torch.equal(found, reorder(expected, dim)):
                return "rows in the other RoPE order (interleaved where half-split is right)"
    heads = _heads(name, found, expected, dim)
    if heads is not None:
        ours, theirs = heads
        wrong = [index for index in range(len(ours)) if not torch.equal(ours[index], theirs[index])]
        if len(wrong) < len(ours) or all(not bool(ours[index].any()) for index in wrong):
            where = f"head {', '.join(map(str, wrong))}"
            if all(not bool(ours[index].any()) for index in wrong):
                return f"{where} zeroed"
            copies = [
                other for index in wrong for other in range(len(theirs)) if torch.equal(ours[index], theirs[other])
            ]
            if len(copies) == len(wrong):
                return f"{where} holds head {', '.join(map(str, copies))}"
    if found.dim() == 2 and torch.equal(_row_order(found), _row_order(expected)):
        return "rows in another order"
    return ""


def _heads(name: str, found: Tensor, expected: Tensor, dim: int) -> tuple[Tensor, Tensor] | None:
    """Both by head, (H, ...): rows of q, k and v, columns of o."""
    if any(f".{kind}_proj." in name for kind in "qkv"):
        return found.reshape(-1, dim, *found.shape[1:]), expected.reshape(-1, dim, *expected.shape[1:])
    if ".o_proj." in name:
        return found.T.reshape(-1, dim, len(found)), expected.T.reshape(-1, dim, len(expected))
    return None


def _row_order(values: Tensor) -> Tensor:
    """A number a row, sorted: equal for the same rows in any order, and for little else."""
    weights = torch.arange(1, values.shape[1] + 1, dtype=torch.float64).sqrt()
    return (values.to(torch.float64) @ weights).sort().values


def _lookalikes(name: str, config: ModelConfig) -> Iterator[str]:
    """Matrices of the same shape that might have been taken instead."""
    pairs = (("gate_proj", "up_proj"), ("up_proj", "gate_proj"), ("k_proj", "v_proj"), ("v_proj", "k_proj"))
    for ours, other in pairs:
        if f".{ours}." in name:
            yield name.replace(ours, other)
    layer = layer_of(name)
    if layer is not None:
        for other_layer in range(config.num_hidden_layers):
            if other_layer != layer:
                yield name.replace(f".{layer}.", f".{other_layer}.", 1)


def _diagnose_scales(found: Tensor, expected: Tensor) -> str:
    repeated = _repeat(expected, found.shape[1])
    if found.shape == repeated.shape:
        flat = found.reshape(-1), repeated.reshape(-1), found.T.reshape(-1), repeated.T.reshape(-1)
        if torch.equal(flat[0], flat[3]) or torch.equal(flat[2], flat[1]):
            return "scales transposed"
    return _diagnose_factor(found, repeated, "scale")


def _diagnose_values(found: Tensor, expected: Tensor) -> str:
    if not bool(found.any()):
        return "all zero"
    return _diagnose_factor(found, expected, "value")


def _diagnose_factor(found: Tensor, expected: Tensor, what: str) -> str:
    wrong = found != expected
    factors = found[wrong].to(torch.float64) / expected[wrong].to(torch.float64)
    count = int(wrong.sum())
    same = len(factors) > 0 and bool((factors - factors[0]).abs().max() <= 1e-6 * abs(float(factors[0])))
    if count == 1:
        return f"one {what} changed, to {float(factors[0]):.4g} times itself"
    if same and count == wrong.numel():
        return f"every {what} is {float(factors[0]):.4g} times what it should be"
    if same:
        return f"{count} {what}s are {float(factors[0]):.4g} times what they should be"
    return ""
