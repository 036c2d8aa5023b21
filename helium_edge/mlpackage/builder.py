"""`FunctionBuilder`: operators and constants of one MIL function, with every shape written down.

A thin layer over coremltools' protobuf messages. Each operator is given the arguments that coremltools gives it,
also those that are optional: that is what Apple's compiler is used to.

Source: apple/coremltools mlmodel/format/MIL.proto, coremltools/converters/mil/backend/mil/load.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from coremltools.proto import MIL_pb2

from helium_edge.mlpackage.ios import BLOCKS, OPERATORS
from helium_edge.mlpackage.weights_file import Blob, WeightsFile
from helium_edge.signature import GraphSignature, TensorSpec, TextSignature

_STORED_FROM = 10
"""Elements from which a float16 constant goes to the weights file, as coremltools decides it."""

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """The result of an operator, a constant or an input; `dtype` as MIL spells it."""

    name: str
    dtype: str
    shape: Shape


Argument = Value | Sequence[Value] | bool | int | str | Sequence[int] | np.generic | np.ndarray[Any, np.dtype[Any]]


class FunctionBuilder:
    """One function under construction.

    Args:
        signature: Declares the inputs; the outputs are checked against it at the end.
        weights: Where constants go.
        ios: Deployment target, which decides the operator set.
    """

    def __init__(self, signature: GraphSignature | TextSignature, weights: WeightsFile, ios: int) -> None:
        self.signature = signature
        self.ios = ios
        self.inputs = {spec.name: _declared(spec) for spec in signature.inputs()}
        self._weights = weights
        self._block = MIL_pb2.Block()
        self._outputs: dict[str, Value] = {}
        self._constants: dict[Any, Value] = {}
        self._scope = ""
        self._names: dict[str, int] = {}

    def scope(self, name: str) -> None:
        """Prefix the names of the operators that follow, as `layers.3`."""
        self._scope = name

    def op(
        self,
        op_type: str,
        shape: Shape,
        dtype: str = "float16",
        /,
        output: str | None = None,
        **arguments: Argument,
    ) -> Value:
        """Append an operator of one result and return that.

        Args:
            op_type: As MIL spells it.
            shape: Of the result.
            dtype: Of the result.
            output: Name of the declared output that the result is, if it is one.
            arguments: By the names of the operator; those that are no values become constants.
        """
        name = self._unique(op_type) if output is None else feature_name(output)
        operation, result = self._append(op_type, name, dtype, shape)
        if output is not None:
            self._outputs[output] = result
        for name, argument in arguments.items():
            binding = operation.inputs[name]
            several = isinstance(argument, Sequence) and len(argument) > 0 and isinstance(argument[0], Value)
            for value in argument if several else [argument]:  # type: ignore[union-attr]
                found = value if isinstance(value, Value) else self._constant(value)
                binding.arguments.add(name=found.name)
        # Constants were appended while their reader was made, and must stand before it.
        self._block.operations.append(operation)
        return result

    def stored(self, blob: Blob, name: str) -> Value:
        """A constant of the weights file; asked for again, it is the same value."""
        key = blob.offset, blob.shape
        if key not in self._constants:
            operation, self._constants[key] = self._append("const", self._unique(name), blob.dtype, blob.shape)
            operation.attributes["val"].CopyFrom(_blob_value(blob))
            self._block.operations.append(operation)
        return self._constants[key]

    def dequantized(self, name: str, codes: Blob, scales: Blob, points: Blob | None) -> Value:
        """A constant matrix (N, K) float16 of integer codes: real = scale * (code - zero point).

        Args:
            name: Of the constant.
            codes: (N, K).
            scales: (N, G) float16; (N,) below iOS 18.
            points: Zero points, shaped as the scales and of the codes' type; None only from iOS 18 on.
        """
        key = codes.offset, scales.offset
        if key in self._constants:
            return self._constants[key]
        blocks = self.ios >= BLOCKS
        op_type = "constexpr_blockwise_shift_scale" if blocks else "constexpr_affine_dequantize"
        operation, result = self._append(op_type, self._unique(name), "float16", codes.shape)
        names = ("data", "scale", "offset") if blocks else ("quantized_data", "scale", "zero_point")
        for argument, blob in zip(names, (codes, scales, points), strict=True):
            if blob is None:
                continue
            if blocks:
                operation.inputs[argument].arguments.add().value.CopyFrom(_blob_value(blob))
            else:
                operation.attributes[argument].CopyFrom(_blob_value(blob))
        if not blocks:
            operation.attributes["axis"].CopyFrom(_immediate(np.int32(0)))
        self._block.operations.append(operation)
        self._constants[key] = result
        return result

    def build(self) -> Any:
        """Finish the function, a protobuf message.

        Raises:
            AssertionError: An output of the signature is missing, or has another type or shape.
        """
        function = MIL_pb2.Function(opset=OPERATORS[self.ios])
        for value in self.inputs.values():
            function.inputs.add(name=value.name, type=_type(value.dtype, value.shape))
        block = function.block_specializations[OPERATORS[self.ios]]
        for spec in self.signature.outputs():
            found, declared = self._outputs.pop(spec.name), _declared(spec)
            if (found.dtype, found.shape) != (declared.dtype, declared.shape):
                raise AssertionError(f"{spec.name} is {found.dtype}{found.shape}, not {declared}")
            block.outputs.append(declared.name)
        if self._outputs:
            raise AssertionError(f"outputs outside the signature: {sorted(self._outputs)}")
        block.operations.MergeFrom(self._block.operations)
        return function

    def _append(self, op_type: str, name: str, dtype: str, shape: Shape) -> tuple[Any, Value]:
        operation = MIL_pb2.Operation(type=op_type)
        operation.outputs.add(name=name, type=_type(dtype, shape))
        operation.attributes["name"].CopyFrom(_immediate(name))
        return operation, Value(name, dtype, shape)

    def _constant(self, value: Any) -> Value:
        array = value if isinstance(value, str) else np.asarray(value)
        if not isinstance(array, str):
            array = array.astype(np.int32) if array.dtype == np.int64 else array
            if array.dtype == np.float16 and array.size >= _STORED_FROM:
                blob = self._weights.add([torch.from_numpy(array)], "float16", array.shape)
                return self.stored(blob, "table")
        key = array if isinstance(array, str) else (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            dtype = "string" if isinstance(array, str) else str(array.dtype)
            shape = () if isinstance(array, str) else array.shape
            operation, self._constants[key] = self._append("const", f"const_{len(self._constants)}", dtype, shape)
            operation.attributes["val"].CopyFrom(_immediate(array))
            self._block.operations.append(operation)
        return self._constants[key]

    def _unique(self, op_type: str) -> str:
        base = feature_name(f"{self._scope}.{op_type}" if self._scope else op_type)
        count = self._names.get(base, 0)
        self._names[base] = count + 1
        return base if count == 0 else f"{base}_{count}"


def feature_name(name: str) -> str:
    """A name as CoreML allows it: letters, digits and underscores."""
    return name.replace(".", "_")


def features(specs: Sequence[TensorSpec]) -> Mapping[str, Value]:
    """Inputs or outputs of a function as CoreML declares them, by name; see `_declared`."""
    return {value.name: value for value in map(_declared, specs)}


def _declared(spec: TensorSpec) -> Value:
    """What CoreML declares: it knows no int64, and returns float16, which ExecuTorch widens as it copies."""
    dtype = {"int64": "int32", "float32": "float16"}.get(spec.dtype, spec.dtype)
    return Value(feature_name(spec.name), dtype, tuple(int(dim) for dim in spec.shape))


def _type(dtype: str, shape: Shape) -> Any:
    tensor = MIL_pb2.TensorType(dataType=MIL_pb2.DataType.Value(dtype.upper()), rank=len(shape))
    for size in shape:
        tensor.dimensions.add().constant.size = size
    return MIL_pb2.ValueType(tensorType=tensor)


def _blob_value(blob: Blob) -> Any:
    file = MIL_pb2.Value.BlobFileValue(fileName="@model_path/weights/weight.bin", offset=blob.offset)
    return MIL_pb2.Value(type=_type(blob.dtype, blob.shape), blobFileValue=file)


def _immediate(value: Any) -> Any:
    """A text, or an array of booleans, int32 or float16, written into the program."""
    if isinstance(value, str):
        message = MIL_pb2.Value(type=_type("string", ()))
        message.immediateValue.tensor.strings.values.append(value)
        return message
    array = np.asarray(value)
    message = MIL_pb2.Value(type=_type(str(array.dtype), array.shape))
    tensor = message.immediateValue.tensor
    if array.dtype == np.float16:
        tensor.bytes.values = array.tobytes()
    elif array.dtype == np.bool_:
        tensor.bools.values.extend(array.reshape(-1).tolist())
    else:
        tensor.ints.values.extend(array.reshape(-1).tolist())
    return message
