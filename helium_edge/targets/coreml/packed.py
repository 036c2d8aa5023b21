"""From the quantized store to blobs of `weight.bin`: float16, or the integers of the store.

Stacks projections of one input where their schemes agree, streams one weight at a time, and changes no integer:
parity level L0 reads the same codes back. What float16 does to the scales:

- 4-bit scales are representable in bfloat16, whose 8 significant bits fit in float16's 11: they are exact from
  2**-17 to 65504. Weights of such a group are at least 8e-6 apart, so released models stay well above the limit.
- int8 scales are float32 and round to 11 bits: at most 2**-11 off, for a whole row alike.
- Below 2**-17 a scale keeps fewer bits; below 2**-25 it is 0, as for a row of zeros, whose codes are 0 as well.

The dequantized weight is rounded to float16 once more, as an unquantized weight is.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from helium_edge.mlpackage.ios import BLOCKS
from helium_edge.mlpackage.weights_file import Blob, WeightsFile
from helium_edge.model.parts import stacked_bias
from helium_edge.model.weights import EMBEDDING, FINAL_NORM, head_name, layer_name
from helium_edge.quant import QuantizedStore
from helium_edge.quant.half import check_half
from helium_edge.quant.packing import int4_rows


@dataclass(frozen=True)
class PackedMatrix:
    """The embedding, or one or more projections of one input over each other: (N, K).

    Args:
        weight: Integers, or float16 where `scales` is None.
        scales: (N, G) float16; (N,) below iOS 18.
        points: Zero points, shaped as the scales; below iOS 18 always there.
        bias: (N,) float16, of zeros where the model has none; None for the embedding.
    """

    weight: Blob
    scales: Blob | None
    points: Blob | None
    bias: Blob | None


@dataclass(frozen=True)
class PackedLayer:
    """The weights of one layer; projections of one input are one matrix where their schemes agree."""

    norm1: Blob
    qkv: tuple[PackedMatrix, ...]
    o: tuple[PackedMatrix, ...]
    norm2: Blob
    gate_up: tuple[PackedMatrix, ...]
    down: tuple[PackedMatrix, ...]


@dataclass(frozen=True)
class PackedModel:
    """All weights that the functions of one model refer to."""

    embedding: PackedMatrix
    layers: tuple[PackedLayer, ...]
    norm: Blob
    head: tuple[PackedMatrix, ...]


class Packer:
    """Writes the store's weights into a weights file.

    Args:
        store: The quantized weights; each is read once.
        file: Where they go.
        ios: Deployment target, which decides the form of scales.
        on_weight: Called with the name of each matrix once it is written.
    """

    def __init__(
        self, store: QuantizedStore, file: WeightsFile, ios: int, on_weight: Callable[[str], None]
    ) -> None:
        self._store = store
        self._file = file
        self._ios = ios
        self._on_weight = on_weight
        self._plan = {planned.name: planned for planned in store.plan}

    def pack(self) -> PackedModel:
        """Write everything.

        Raises:
            CheckpointError: A weight cannot be held in float16.
        """
        head = head_name(self._store.config)
        return PackedModel(
            embedding=self._matrix([EMBEDDING], has_bias=False),
            layers=tuple(self._layer(index) for index in range(self._store.config.num_hidden_layers)),
            norm=self._gain(FINAL_NORM),
            head=() if head is None else self._matrices([head]),
        )

    def _layer(self, index: int) -> PackedLayer:
        def matrices(part: str, kinds: Sequence[str]) -> tuple[PackedMatrix, ...]:
            return self._matrices([layer_name(index, f"{part}.{kind}_proj.weight") for kind in kinds])

        return PackedLayer(
            norm1=self._gain(layer_name(index, "input_layernorm.weight")),
            qkv=matrices("self_attn", "qkv"),
            o=matrices("self_attn", "o"),
            norm2=self._gain(layer_name(index, "post_attention_layernorm.weight")),
            gate_up=matrices("mlp", ("gate", "up")),
            down=matrices("mlp", ("down",)),
        )

    def _matrices(self, names: Sequence[str]) -> tuple[PackedMatrix, ...]:
        groups = itertools.groupby(names, key=lambda name: self._plan[name].scheme)
        return tuple(self._matrix(list(group), has_bias=True) for _, group in groups)

    def _matrix(self, names: Sequence[str], *, has_bias: bool) -> PackedMatrix:
        planned = [self._plan[name] for name in names]
        scheme, shape = planned[0].scheme, (sum(each.shape[0] for each in planned), planned[0].shape[1])
        scales, points = list[Tensor](), list[Tensor]()
        parts = (part for name in names for part in self._parts(name, scales, points))
        weight = self._file.add(parts, "float16" if scheme is None else f"int{scheme.bits}", shape)
        packed_scales = packed_points = None
        if scheme is not None:
            stacked = torch.cat(scales)
            form = stacked.shape if self._ios >= BLOCKS else shape[:1]
            packed_scales = self._file.add([stacked], "float16", tuple(form))
            if points:
                packed_points = self._file.add([int4_rows(torch.cat(points))], weight.dtype, tuple(form))
            elif self._ios < BLOCKS:
                packed_points = self._file.add([torch.zeros(form, dtype=torch.int8)], weight.dtype, tuple(form))
        bias = self._bias(names, shape[0]) if has_bias else None
        return PackedMatrix(weight, packed_scales, packed_points, bias)

    def _parts(self, name: str, scales: list[Tensor], points: list[Tensor]) -> Iterator[Tensor]:
        """The bytes of one matrix; its scales and zero points are appended to the lists."""
        weight = self._store.get(name)
        check_half(name, weight)
        if isinstance(weight, Tensor):
            yield weight.to(torch.float16)
        else:
            scales.append(weight.scales.to(torch.float16))
            codes = weight.codes
            if weight.zero_points is not None:  # CoreML's types are signed: both move from [0, 15] to [-8, 7]
                points.append(weight.zero_points - 8)
                codes = codes - 8
            yield int4_rows(codes) if weight.scheme.bits == 4 else codes
        self._on_weight(name)

    def _bias(self, names: Sequence[str], rows: int) -> Blob:
        bias = stacked_bias(self._store.config, self._store, names)
        if bias is None:  # coremltools writes it all the same
            return self._file.add([torch.zeros(rows, dtype=torch.float16)], "float16", (rows,))
        return self._vector(f"bias of {names[0]}", bias)

    def _gain(self, name: str) -> Blob:
        return self._vector(name, self._store.vector(name))

    def _vector(self, name: str, vector: Tensor) -> Blob:
        check_half(name, vector)
        return self._file.add([vector.to(torch.float16)], "float16", tuple(vector.shape))
