"""Reads the CoreML programs out of a `.pte`: which function each method calls, and with what.

A method of our files is one call of one CoreML delegate. The package is either inline (one function, `main`) or
stands once in the file's named data and is referred to by key and function name.

Source: pytorch/executorch backends/apple/coreml (coreml_preprocess.py, coreml_backend_delegate.mm).
"""

from __future__ import annotations

import importlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from helium_edge.errors import BundleError, MissingDependencyError
from helium_edge.runtime.executorch_library import require_executorch
from helium_edge.runtime.quiet import quiet

_REFERENCE = b"CMJR"
_DTYPES = {"LONG": "int64", "INT": "int32", "HALF": "float16", "FLOAT": "float32"}
_PURPOSE = "reading a CoreML bundle"


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
        MissingDependencyError: executorch or coremltools is not installed.
    """
    require_coremltools(_PURPOSE)
    try:
        with quiet():
            serialization = importlib.import_module("executorch.exir._serialize._program")
            file = serialization.deserialize_pte_binary(path.read_bytes())
    except Exception as error:  # the reader raises whatever a damaged file makes it meet
        raise BundleError(
            f"{path.name}: not readable as an ExecuTorch program: {_first_line(error)}",
            hint="`helium-edge verify` tells whether the file is damaged",
        ) from error
    plans = [plan for plan in file.program.execution_plan if plan.delegates or plan.operators]
    packages: dict[str, _Package] = {}
    return {plan.name: _read_method(path.name, file, plan, packages) for plan in plans}


def stored_weights(method: CoremlMethod) -> list[StoredWeight]:
    """The quantized weights that a method reads, in the order in which it first reads them."""
    found = []
    for operation in method.function.operations:
        if not operation.op_type.startswith("constexpr_"):
            continue
        values = {name: argument.val for name, argument in operation.inputs.items()}
        if operation.op_type == "constexpr_blockwise_shift_scale":
            found.append(StoredWeight(values["data"], values["scale"], values.get("offset")))
        elif operation.op_type == "constexpr_affine_dequantize":
            points = np.asarray(values["zero_point"]).reshape(-1, 1)
            scales = np.asarray(values["scale"]).reshape(-1, 1)
            found.append(StoredWeight(values["quantized_data"], scales, points if points.any() else None))
    return found


def require_coremltools(purpose: str) -> None:
    """Refuse early where CoreML programs can be neither written nor read; both packages come with one extra.

    Raises:
        MissingDependencyError: executorch or coremltools is not installed.
    """
    require_executorch(purpose)
    if importlib.util.find_spec("coremltools") is None:
        raise MissingDependencyError("coremltools", extra="executorch", purpose=purpose)


@dataclass(frozen=True)
class _Package:
    metadata: dict[str, Any]
    functions: Mapping[str, Any]
    version: int


def _read_method(file_name: str, file: Any, plan: Any, packages: dict[str, _Package]) -> CoremlMethod:
    where = f"{file_name}, method {plan.name}"
    names = [delegate.id for delegate in plan.delegates] + [operator.name for operator in plan.operators]
    if names != ["CoreMLBackend"]:
        raise BundleError(f"{where}: found {', '.join(names)}; a CoreML method is exactly one CoreML delegate")
    processed = bytes(file.program.backend_delegate_data[plan.delegates[0].processed.index].data)
    key, function_name, content = f"inline {plan.name}", "main", processed
    if processed.startswith(_REFERENCE):
        reference = json.loads(processed[len(_REFERENCE) :])
        key, function_name = reference["key"], reference["functionName"]
        content = _named_data(file, key, where)
    if key not in packages:
        packages[key] = _read_package(content, where)
    package = packages[key]
    names_of = package.metadata.get("methods", {}).get(plan.name, package.metadata)
    calls = [instruction.instr_args for chain in plan.chains for instruction in chain.instructions]
    if len(calls) != 1 or function_name not in package.functions:
        raise BundleError(f"{where}: it must call the function {function_name} of its package once")
    split = len(names_of["inputNames"])
    given, returned = calls[0].args[:split], calls[0].args[split:]
    return CoremlMethod(
        name=plan.name,
        function=package.functions[function_name],
        specification_version=package.version,
        package=key,
        inputs=tuple(_tensor_type(plan, index) for index in plan.inputs),
        outputs=tuple(_tensor_type(plan, index) for index in plan.outputs),
        arguments=_wiring(names_of["inputNames"], given, plan.inputs, where),
        results=_wiring(names_of["outputNames"], returned, plan.outputs, where),
    )


def _wiring(names: list[str], values: list[int], caller: list[int], where: str) -> tuple[tuple[str, int], ...]:
    """Pair the function's names with the caller's positions, through the value slots of the program."""
    if len(names) != len(values) or sorted(values) != sorted(caller):
        raise BundleError(f"{where}: the CoreML function does not take and return what the method does")
    return tuple((name, caller.index(value)) for name, value in zip(names, values, strict=True))


def _tensor_type(plan: Any, index: int) -> TensorType:
    tensor = plan.values[index].val
    return TensorType(_DTYPES.get(tensor.scalar_type.name, tensor.scalar_type.name), tuple(tensor.sizes))


def _named_data(file: Any, key: str, where: str) -> bytes:
    entry = file.named_data.pte_data.get(key) if file.named_data else None
    if entry is None:
        raise BundleError(f"{where}: the package {key} is not in the file")
    return bytes(file.named_data.buffers[entry.buffer_index])


def _read_package(content: bytes, where: str) -> _Package:
    """Unfold a flattened package into a temporary folder and load its program, weights included."""
    with quiet(), tempfile.TemporaryDirectory(prefix="helium-edge-") as folder:
        native = importlib.import_module("executorch.backends.apple.coreml.executorchcoreml")
        coremltools = importlib.import_module("coremltools")
        loader = importlib.import_module("coremltools.converters.mil.frontend.milproto.load")
        try:
            native.unflatten_directory_contents(content, folder)
            (metadata_file,) = Path(folder).rglob("metadata.json")
            package = metadata_file.parent / "model.mlpackage"
            metadata = json.loads(metadata_file.read_text(encoding="utf-8"))
            specification = coremltools.utils.load_spec(str(package))
            version = int(specification.specificationVersion)
            weights = package / "Data" / "com.apple.CoreML" / "weights"
            program = loader.load(specification, version, str(weights))
        except Exception as error:  # the loader raises whatever a damaged package makes it meet
            raise BundleError(f"{where}: the CoreML package cannot be read: {_first_line(error)}") from error
    return _Package(metadata, dict(program.functions), version)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
