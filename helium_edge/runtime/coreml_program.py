"""Reads the CoreML programs out of a `.pte`: which function each method calls, and with what.

A method of our files is one call of one CoreML delegate. The package is either inline (one function, `main`) or
stands once in the file's named data and is referred to by key and function name.

Source: pytorch/executorch backends/apple/coreml (coreml_preprocess.py, coreml_backend_delegate.mm).
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from helium_edge.documents import first_line, parse_json
from helium_edge.errors import BundleError, MissingDependencyError
from helium_edge.mlpackage.flattened_folder import FlattenedFolder
from helium_edge.pte.builder import DTYPES
from helium_edge.pte.executorch_schema import DelegateCall, ExecutionPlan, Tensor
from helium_edge.pte.file import PteFile
from helium_edge.runtime.quiet import quiet

BACKEND = "CoreMLBackend"
REFERENCE = b"CMJR"
"""What the data of a delegate starts with that refers to a package elsewhere in the file."""

_PROGRAM = "model.mlpackage/Data/com.apple.CoreML"


@dataclass(frozen=True)
class TensorType:
    """Type of one input or output; `dtype` as numpy spells it."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CoremlMethod:
    """One method and the CoreML function that it calls.

    Attributes:
        name: Of the method.
        function: A `coremltools` MIL function.
        specification_version: Of the package: 8 runs from iOS 17 on, 9 from iOS 18.
        package: Key of the package; methods with one key share its weights.
        inputs: What the caller gives, in order.
        outputs: What the caller gets, in order.
        arguments: Name of each input of the function, and which of the caller's inputs it is.
        results: Name of each output of the function, and which of the caller's outputs it is.
    """

    name: str
    function: Any
    specification_version: int
    package: str
    inputs: tuple[TensorType, ...]
    outputs: tuple[TensorType, ...]
    arguments: tuple[tuple[str, int], ...]
    results: tuple[tuple[str, int], ...]


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """One quantized matrix as the package holds it: real = scale * (code - zero point).

    Attributes:
        codes: (N, K) integers.
        scales: (N, G) float16; G is the number of blocks in a row.
        zero_points: (N, G) integers, or None when all are 0.
    """

    codes: npt.NDArray[Any]
    scales: npt.NDArray[np.float16]
    zero_points: npt.NDArray[Any] | None


def read_coreml(path: Path) -> dict[str, CoremlMethod]:
    """Read all CoreML methods of a `.pte`; methods without a delegate, which hold constants, are left out.

    Raises:
        BundleError: Not readable, or a method is not exactly one CoreML delegate.
        MissingDependencyError: coremltools is not installed.
    """
    require_coremltools("reading a CoreML bundle")
    file = PteFile(path)
    plans = [plan for plan in file.program.execution_plan if plan.delegates or plan.operators]
    packages: dict[str, _Package] = {}
    return {plan.name: _read_method(file, plan, packages) for plan in plans}


def stored_weight(operation: Any) -> StoredWeight:
    """The quantized weight that a `constexpr` operator dequantizes.

    Raises:
        BundleError: It is of a kind that we do not write.
    """
    values = {name: argument.val for name, argument in operation.inputs.items()}
    if operation.op_type == "constexpr_blockwise_shift_scale":
        return StoredWeight(values["data"], values["scale"], values.get("offset"))
    if operation.op_type == "constexpr_affine_dequantize":
        points = np.asarray(values["zero_point"]).reshape(-1, 1)
        scales = np.asarray(values["scale"]).reshape(-1, 1)
        return StoredWeight(values["quantized_data"], scales, points if points.any() else None)
    raise BundleError(f"weights of the CoreML type {operation.op_type} are not known to this version")


def stored_weights(method: CoremlMethod) -> list[StoredWeight]:
    """The quantized weights that a method reads, in the order in which it first reads them."""
    operations = method.function.operations
    return [stored_weight(operation) for operation in operations if operation.op_type.startswith("constexpr_")]


def require_coremltools(purpose: str) -> None:
    """Refuse early where CoreML programs can be neither written nor read.

    Raises:
        MissingDependencyError: coremltools is not installed.
    """
    if importlib.util.find_spec("coremltools") is None:
        raise MissingDependencyError("coremltools", extra="coreml", purpose=purpose)


@dataclass(frozen=True)
class _Package:
    metadata: dict[str, Any]
    functions: Mapping[str, Any]
    version: int


def _read_method(file: PteFile, plan: ExecutionPlan, packages: dict[str, _Package]) -> CoremlMethod:
    where = f"{file.path.name}, method {plan.name}"
    names = [delegate.id for delegate in plan.delegates] + [operator.name for operator in plan.operators]
    if names != [BACKEND]:
        raise BundleError(f"{where}: found {', '.join(names)}; a CoreML method is exactly one CoreML delegate")
    key, function_name, content = f"inline {plan.name}", "main", file.delegate(plan)
    try:
        if content[: len(REFERENCE)] == REFERENCE:
            reference = parse_json(bytes(content[len(REFERENCE) :]))
            key, function_name = reference["key"], reference["functionName"]
            content = file.named(key)
        if key not in packages:
            packages[key] = _read_package(content, where)
        package = packages[key]
        names_of = package.metadata.get("methods", {}).get(plan.name, package.metadata)
        given_names, returned_names = names_of["inputNames"], names_of["outputNames"]
        (call,) = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
        function = package.functions[function_name]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{where}: it must call one function of its package once: {first_line(error)}"
        ) from error
    if not isinstance(call, DelegateCall):
        raise BundleError(f"{where}: its instruction is no call of a delegate")
    given, returned = call.args[: len(given_names)], call.args[len(given_names) :]
    return CoremlMethod(
        name=plan.name,
        function=function,
        specification_version=package.version,
        package=key,
        inputs=tuple(_tensor_type(plan, index, where) for index in plan.inputs),
        outputs=tuple(_tensor_type(plan, index, where) for index in plan.outputs),
        arguments=_wiring(given_names, given, plan.inputs, where),
        results=_wiring(returned_names, returned, plan.outputs, where),
    )


def _wiring(names: list[str], values: list[int], caller: list[int], where: str) -> tuple[tuple[str, int], ...]:
    """Pair the function's names with the caller's positions, through the value slots of the program."""
    if len(names) != len(values) or sorted(values) != sorted(caller):
        raise BundleError(f"{where}: the CoreML function does not take and return what the method does")
    return tuple((name, caller.index(value)) for name, value in zip(names, values, strict=True))


def _tensor_type(plan: ExecutionPlan, index: int, where: str) -> TensorType:
    tensor = plan.values[index].val if 0 <= index < len(plan.values) else None
    if not isinstance(tensor, Tensor) or tensor.scalar_type not in DTYPES:
        raise BundleError(f"{where}: value {index} is no tensor of a known type")
    return TensorType(str(DTYPES[tensor.scalar_type]).removeprefix("torch."), tuple(tensor.sizes))


def _read_package(content: memoryview, where: str) -> _Package:
    """Load the program of a flattened package with its weights, for which the loader wants a file."""
    with quiet(), tempfile.TemporaryDirectory(prefix="helium-edge-") as scratch:
        models = importlib.import_module("coremltools.proto.Model_pb2")
        loader = importlib.import_module("coremltools.converters.mil.frontend.milproto.load")
        try:
            folder = FlattenedFolder(content)
            metadata = parse_json(bytes(folder.file("metadata.json")))
            specification = models.Model.FromString(bytes(folder.file(f"{_PROGRAM}/model.mlmodel")))
            (Path(scratch) / "weight.bin").write_bytes(folder.file(f"{_PROGRAM}/weights/weight.bin"))
            version = int(specification.specificationVersion)
            program = loader.load(specification, version, scratch)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # the loader raises whatever a damaged package makes it meet
            raise BundleError(f"{where}: the CoreML package cannot be read: {first_line(error)}") from error
    return _Package(metadata, dict(program.functions), version)
