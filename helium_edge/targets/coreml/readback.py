"""`CoremlArtifact`: codes, scales and constants, read back from the CoreML functions of a `.pte`.

CoreML holds real numbers in float16; scales, gains and unquantized weights are compared as it rounds them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from helium_edge.checkpoint.weight_map import expected_tensors
from helium_edge.config import ModelConfig
from helium_edge.errors import BundleError
from helium_edge.model.parts import bias_name
from helium_edge.model.weights import EMBEDDING, FINAL_NORM, head_name, layer_name
from helium_edge.runtime.coreml_program import CoremlMethod, read_coreml, stored_weight
from helium_edge.targets.artifact import (
    Artifact,
    StoredCodes,
    WeightDifference,
    layer_of,
    row_groups,
    wrong_constant,
    wrong_table,
)

_HALF = 2.0**-11
"""Rounding to float16, relative."""


@dataclass(frozen=True, eq=False)
class _Anatomy:
    """What a function's weights are: a variable and rows by name, gains as variables, and eps by norm."""

    matrices: Mapping[str, tuple[Any, slice]]
    vectors: Mapping[str, tuple[Any, slice]]
    eps: Mapping[str, float]
    tables: tuple[Any, ...]


class CoremlArtifact(Artifact):
    """The weights that the functions of a program compute with; read from the first, compared with the others.

    Args:
        path: The `.pte`.
        config: The model.

    Raises:
        BundleError: The file is not readable, or a method is not built as ours are.
        MissingDependencyError: coremltools is not installed.
    """

    def __init__(self, path: Path, config: ModelConfig) -> None:
        super().__init__(config, torch.float16)
        methods = read_coreml(path)
        self._methods = {name: _dissect(method, config) for name, method in methods.items()}
        self._first = next(iter(self._methods.values()))

    @override
    def matrix(self, name: str) -> StoredCodes | Tensor:
        return _read_matrix(*self._first.matrices[name])

    @override
    def vector(self, name: str) -> Tensor:
        return _read_vector(*self._first.vectors[name])

    @override
    def differences(self) -> list[WeightDifference]:
        """The functions of a package hold weights of their own in memory."""
        first, *others = self._methods
        found = []
        for method in others:
            ours, theirs = self._methods[first], self._methods[method]
            for name, place in ours.matrices.items():
                if not _same(_read_matrix(*place), _read_matrix(*theirs.matrices[name])):
                    found.append(_elsewhere(name, method, first))
            for name, place in ours.vectors.items():
                if not torch.equal(_read_vector(*place), _read_vector(*theirs.vectors[name])):
                    found.append(_elsewhere(name, method, first))
        for method, anatomy in self._methods.items():
            for name, eps in anatomy.eps.items():
                expected = self.config.rms_norm_eps
                tolerance = 4 * _HALF  # its root is held in float16
                found += wrong_constant("rms_norm_eps", layer_of(name), method, eps, expected, tolerance=tolerance)
            for name, table in zip(("rope.cos", "rope.sin"), anatomy.tables, strict=False):
                values = torch.from_numpy(np.asarray(table.val))
                found += wrong_table(name, None, method, values, self.config, tolerance=_HALF)
        return found


def _elsewhere(name: str, method: str, first: str) -> WeightDifference:
    return WeightDifference(name, layer_of(name), method, "place", diagnosis=f"other data than in {first}")


def _same(one: StoredCodes | Tensor, other: StoredCodes | Tensor) -> bool:
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    pairs = ((one.codes, other.codes), (one.scales, other.scales), (one.zero_points, other.zero_points))
    return all(a is b or (a is not None and b is not None and torch.equal(a, b)) for a, b in pairs)


def _dissect(method: CoremlMethod, config: ModelConfig) -> _Anatomy:
    linears = [operation for operation in method.function.operations if operation.op_type == "linear"]
    rest = iter(linears)
    matrices: dict[str, tuple[Any, slice]] = {}
    vectors: dict[str, tuple[Any, slice]] = {}
    eps: dict[str, float] = {}

    def norm(name: str, reader: Any) -> None:
        gained = reader.inputs["x"].op
        vectors[name] = gained.inputs["y"], slice(None)
        eps[name] = _eps(gained)

    def take(names: list[str], rows: int, norm_name: str | None = None) -> None:
        found: list[Any] = []
        while sum(linear.inputs["weight"].shape[0] for linear in found) < rows:
            found.append(next(rest))
        if norm_name is not None:
            norm(norm_name, found[0])
        sizes = [linear.inputs["weight"].shape[0] for linear in found]
        for linear, group in zip(found, row_groups(config, names, sizes), strict=True):
            for name, part in group:
                matrices[name] = linear.inputs["weight"], part
                if bias_name(config, name) is not None:
                    vectors[name.removesuffix("weight") + "bias"] = linear.inputs["bias"], part

    try:
        for index in range(config.num_hidden_layers):
            projections = {kind: layer_name(index, f"self_attn.{kind}_proj.weight") for kind in "qkvo"}
            mlp = {kind: layer_name(index, f"mlp.{kind}_proj.weight") for kind in ("gate", "up", "down")}
            norms = [layer_name(index, f"{kind}_layernorm.weight") for kind in ("input", "post_attention")]
            take([projections[kind] for kind in "qkv"], config.hidden_size + 2 * config.kv_size, norms[0])
            take([projections["o"]], config.hidden_size)
            take([mlp["gate"], mlp["up"]], 2 * config.intermediate_size, norms[1])
            take([mlp["down"]], config.hidden_size)
        head = head_name(config)
        if head is None:  # hidden states, with an axis for the batch, are what is returned
            norm(FINAL_NORM, method.function.operations[-1])
        else:
            take([head], _rows(config, head), FINAL_NORM)
        table, *tables = _tables(method, config)
    except (StopIteration, ValueError, AttributeError, KeyError) as error:
        raise BundleError(f"method {method.name}: the CoreML function is not built as ours are") from error
    matrices[EMBEDDING] = table, slice(None)
    return _Anatomy(matrices, vectors, eps, tuple(tables))


def _rows(config: ModelConfig, head: str) -> int:
    """Rows of the head: a tied one is not among the tensors that the config promises."""
    found = expected_tensors(config).get(head)
    return config.vocab_size if found is None else found.shape[0]


def _tables(method: CoremlMethod, config: ModelConfig) -> Iterator[Any]:
    """The embedding, then the RoPE tables: what is looked up in constants."""
    tables = []
    for operation in method.function.operations:
        if operation.op_type != "gather":
            continue
        x = operation.inputs["x"]
        if x.op is None or not (x.op.op_type == "const" or x.op.op_type.startswith("constexpr_")):
            continue
        if tuple(x.shape) == (config.vocab_size, config.hidden_size):
            yield x
        else:
            tables.append(x)
    yield from tables


def _eps(gained: Any) -> float:
    """The eps of a norm: the square of its root, which is scaled with the values (`HalfNorm`)."""
    inverse = gained.inputs["x"].op.inputs["y"].op
    squared = inverse.inputs["x"].op.inputs["y"].op
    scaled = squared.inputs["x"].op
    root = scaled.inputs["x"].op.inputs["x"].val
    return math.nan if root is None else float(np.asarray(root).reshape(-1)[0]) ** 2


def _read_vector(variable: Any, rows: slice) -> Tensor:
    return torch.from_numpy(np.asarray(variable.val).astype(np.float32).reshape(-1))[rows]


def _read_matrix(variable: Any, rows: slice) -> StoredCodes | Tensor:
    if variable.op.op_type == "const":
        return torch.from_numpy(np.asarray(variable.val)[rows].astype(np.float32))
    weight = stored_weight(variable.op)
    codes = torch.from_numpy(np.asarray(weight.codes)[rows].astype(np.int8))
    scales = torch.from_numpy(np.asarray(weight.scales)[rows].astype(np.float32))
    if weight.zero_points is None:
        return StoredCodes(4 if _code_type(variable.op) == "int4" else 8, codes, scales)
    zeros = torch.from_numpy(np.asarray(weight.zero_points)[rows].astype(np.int8))
    # Codes and zero points of asymmetric weights were moved from [0, 15] to [-8, 7].
    return StoredCodes(4, codes + 8, scales, zeros + 8)


def _code_type(operation: Any) -> str:
    """Element type of an operator's codes, as MIL spells it."""
    from coremltools.converters.mil.mil import types

    name = "data" if operation.op_type == "constexpr_blockwise_shift_scale" else "quantized_data"
    return str(types.builtin_to_string(operation.inputs[name].dtype))
