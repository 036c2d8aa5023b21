"""Weights that stand in a `.pte` but not in the graphs that are lowered: memory does not grow with the model.

Lowering carries constants along: in the modules, in each method's exported program, in what the backend makes of
it. A weight of ours is therefore lowered as a stand-in of its shape, without memory of its own, and XNNPACK's
serializer is handed the name under which it would have stored the real bytes. These are made twice, one weight at
a time: for the name, which is their hash, and again when the file is written.

Imported only where executorch is loaded.

Source: pytorch/executorch backends/xnnpack/operators/node_visitor.py, exir/_serialize/_cord.py (FileBackedData).
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO
from unittest import mock

import torch
from executorch.backends.xnnpack.operators import node_visitor
from executorch.backends.xnnpack.serialization.xnnpack_graph_schema import ConstantDataOffset
from executorch.exir._serialize._cord import FileBackedData
from executorch.exir._serialize._named_data_store import NamedDataStore
from executorch.exir.passes import convert_constant_dim_order_pass
from torch import Tensor

from helium_edge.errors import HeliumEdgeError
from helium_edge.model.kv_cache import KvScales
from helium_edge.quant import QuantizedStore
from helium_edge.quant.packing import pack_codes
from helium_edge.targets.xnnpack.operators import QuantizedLinear, stored_scales
from helium_edge.targets.xnnpack.parts import Matrix, StoreParts, stack_matrices

Images = dict[str, Tensor]
"""What XNNPACK stores of a matrix: bytes by the prefix of their name."""

_CODES, _SCALES = "", "scale_"


class StreamedParts(StoreParts):
    """The decoder's modules with stand-ins for all products; see `StoreParts`.

    Attributes:
        weights: What each stand-in stands for.
    """

    def __init__(
        self, store: QuantizedStore, on_weight: Callable[[str], None], scales: KvScales | None = None
    ) -> None:
        super().__init__(store, on_weight, scales)
        self.weights: list[StreamedWeight] = []

    def _made(self, names: Sequence[str], matrix: Matrix, module: torch.nn.Module) -> None:
        store = self._store
        for name in ("codes", "scales", "weight"):
            buffer = getattr(module, name, None)
            if isinstance(buffer, Tensor):
                setattr(module, name, torch.zeros((), dtype=buffer.dtype).expand(buffer.shape))
        held = module.codes if isinstance(module, QuantizedLinear) else module.weight
        assert isinstance(held, Tensor)
        self.weights.append(
            StreamedWeight(lambda: stack_matrices([store.get(name) for name in names]), matrix, held)
        )


class StreamedWeight:
    """A matrix that is loaded whenever its bytes are needed.

    Args:
        load: Gives the matrix: the same each time.
        matrix: The matrix, of which nothing is kept.
        stand_in: The tensor that stands for its codes, or for its float32 weights.

    Attributes:
        stand_in: As given.
        codes: The data that XNNPACK reads codes, or float32 weights, from.
        scales: The data that it reads scales from; None in float32.
    """

    def __init__(self, load: Callable[[], Matrix], matrix: Matrix, stand_in: Tensor) -> None:
        self._load = load
        self._held: Images = {}
        images = _images(matrix)
        self.stand_in = stand_in
        self.codes = StreamedData(self, _CODES, images[_CODES])
        self.scales = StreamedData(self, _SCALES, images[_SCALES]) if _SCALES in images else None

    def image(self, prefix: str) -> Tensor:
        """Bytes of codes or scales. Codes are asked for first, and scales right after them, from the same load."""
        if prefix not in self._held:
            self._held = _images(self._load())
        if prefix == _CODES:
            return self._held.pop(prefix)
        image = self._held[prefix]
        self._held = {}
        return image


class StreamedData(FileBackedData):  # type: ignore[misc]  # untyped base
    """Bytes that exist while they are written."""

    def __init__(self, weight: StreamedWeight, prefix: str, image: Tensor) -> None:
        # The base class is about a file, which there is none of.
        self._weight = weight
        self._kind = prefix
        self._size = image.numel()
        self._start = bytes(image[:64].numpy())
        self._digest = _digest(image)
        self.key = prefix + self._digest.hex()

    def prefix(self, size: int) -> bytes:
        """The first bytes."""
        return self._start[:size] if size <= len(self._start) else self.to_bytes()[:size]

    def sha256(self) -> bytes:
        """Digest of the bytes."""
        return self._digest

    def to_bytes(self) -> bytes:
        """All bytes, a copy."""
        return bytes(self._image().numpy())

    def write_to_file(self, outfile: BinaryIO) -> None:
        """Write the bytes."""
        outfile.write(self._image().numpy().data)

    def close(self) -> None:
        """Nothing is open."""

    def _image(self) -> Tensor:
        image = self._weight.image(self._kind)
        if image.numel() != self._size or _digest(image) != self._digest:
            raise HeliumEdgeError(f"a weight changed while it was exported: {self.key} has other bytes now")
        return image


@contextlib.contextmanager
def streaming(weights: Sequence[StreamedWeight], methods: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Let XNNPACK's serializer refer to the real data wherever it meets a stand-in.

    Args:
        weights: What stands for something.
        methods: The modules that are lowered meanwhile, once each; each has all weights.

    Raises:
        HeliumEdgeError: On leaving, when it was not met in every method: a stand-in would be in the file.
    """
    held = {id(weight.stand_in): weight for weight in weights}
    named = {name: held[id(b)] for module in methods for name, b in module.named_buffers() if id(b) in held}
    if len(named) != len(weights):
        raise HeliumEdgeError(f"{len(weights) - len(named)} weights are in no module that is lowered")
    with referring(named) as met:
        yield
    missed = [name for name in named if met[name] != len(methods)]
    if missed:
        raise HeliumEdgeError(f"ExecuTorch lowered the graph without the weight {missed[0]}")


@contextlib.contextmanager
def referring(weights: Mapping[str, StreamedWeight]) -> Iterator[Counter[str]]:
    """Patch the serializer for stand-ins, by the names of their buffers; gives how often it met each."""
    visitor = node_visitor.NodeVisitor
    plain_data, plain_scales = visitor.get_serialized_buffer_index, visitor.get_quant_params
    met: Counter[str] = Counter()

    def name_of(self: Any, node: Any) -> str:
        return str(self.exported_program.graph_signature.inputs_to_buffers.get(node.name))

    def refer(self: Any, data: StreamedData) -> Any:
        self._named_data_store.add_named_data(data.key, data, alignment=node_visitor.CONSTANT_TENSOR_ALIGNMENT)
        return ConstantDataOffset(offset=node_visitor.UINT64_MAX, size=len(data), named_key=data.key)

    def data_index(self: Any, tensor: Any, graph: Any, ids: Any, *flags: Any) -> Any:
        quantized = flags[2]
        name = name_of(self, tensor if quantized is None else quantized.q_input)
        if name not in weights:
            return plain_data(self, tensor, graph, ids, *flags)
        met[name] += 1
        graph.constant_data.append(refer(self, weights[name].codes))
        return len(graph.constant_data) - 1

    def scales(self: Any, quantized: Any, graph: Any, external_tag: Any = None) -> Any:
        weight = weights.get(name_of(self, quantized.q_input))
        if weight is None or weight.scales is None:
            return plain_scales(self, quantized, graph, external_tag)
        with mock.patch.object(self, "_named_data_store", NamedDataStore()):
            found = plain_scales(self, quantized, graph, external_tag)
        graph.constant_data[-1] = refer(self, weight.scales)
        return found

    def is_irregular(tensor: Tensor) -> bool:
        # A stand-in that is made contiguous has all the memory of a weight.
        return any(tensor.stride()) and plain_irregular(tensor)

    plain_irregular = convert_constant_dim_order_pass._should_transform
    with (
        mock.patch.object(convert_constant_dim_order_pass, "_should_transform", is_irregular),
        mock.patch.object(visitor, "get_serialized_buffer_index", data_index),
        mock.patch.object(visitor, "get_quant_params", scales),
    ):
        yield met


def _images(matrix: Matrix) -> Images:
    """What XNNPACK stores: int8 codes as they are, int4 codes two a byte, bfloat16 or float32 scales."""
    if isinstance(matrix, Tensor):
        return {_CODES: _bytes(matrix)}
    codes = pack_codes(matrix.codes, matrix.scheme) if matrix.scheme.bits == 4 else matrix.codes
    return {_CODES: _bytes(codes), _SCALES: _bytes(stored_scales(matrix))}


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def _digest(image: Tensor) -> bytes:
    return hashlib.sha256(image.numpy().data).digest()


def give_back_memory() -> None:
    """Hand freed memory to the system; glibc keeps what lies below a block in use, half a gigabyte in all."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)
