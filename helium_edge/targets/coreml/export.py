"""From the store to a `.pte`: weights and functions become a package, which the delegates of the program run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch

from helium_edge.mlpackage.ios import SHARING, SPECIFICATIONS
from helium_edge.mlpackage.package import Function, write_package
from helium_edge.mlpackage.weights_file import WeightsFile
from helium_edge.pte.builder import Metadata, ProgramBuilder
from helium_edge.quant import QuantizedStore
from helium_edge.runtime.coreml_program import BACKEND, REFERENCE
from helium_edge.signature import GraphSignature, HeadSignature
from helium_edge.targets.coreml.decoder import build_function
from helium_edge.targets.coreml.packed import Packer


def write_program(
    store: QuantizedStore,
    signatures: Sequence[GraphSignature | HeadSignature],
    facts: Mapping[str, Metadata],
    ios: int,
    path: Path,
    on_weight: Callable[[str], None],
) -> None:
    """Write one program; weights pass through memory one at a time.

    Args:
        store: The weights.
        signatures: Inputs and outputs of each method, which has the name of its phase.
        facts: What methods without inputs return.
        ios: Deployment target. From 18 on the methods are functions of one package and share its weights; before,
            each method has a package of its own, with its own copy.
        path: The `.pte`; a temporary package as large as it lies beside it meanwhile.
        on_weight: Called with the name of each matrix once it is written.

    Raises:
        CheckpointError: A weight cannot be held in float16.
        OSError: No space is left or the disk fails.
    """
    with tempfile.TemporaryDirectory(prefix="coreml-", dir=path.parent) as scratch:
        with WeightsFile(Path(scratch) / "package") as weights:
            model = Packer(store, weights, ios, on_weight).pack()
            functions: dict[str, Function] = {
                signature.phase: Function(signature, build_function(store.config, model, signature, weights, ios))
                for signature in sorted(signatures, key=lambda signature: signature.phase)
            }
        program = ProgramBuilder()
        program.metadata(dict(sorted(facts.items())))
        if len(functions) > 1 and ios >= SHARING:
            _share_package(program, weights, functions, ios)
        else:
            for method, function in functions.items():
                _add_method(program, method, function, ios, _own_package(weights, method, function, ios))
        program.write(path)


def _share_package(
    program: ProgramBuilder, weights: WeightsFile, functions: Mapping[str, Function], ios: int
) -> None:
    """One package in the named data, to which the methods refer."""
    package = write_package(weights, functions, ios)
    content = torch.from_numpy(np.asarray(package))
    (named,) = program.named({"coreml_": len(package)}, lambda: [content])
    for method, function in functions.items():

        def refer(method: str = method) -> bytes:
            reference = {"version": 1, "key": named.key, "functionName": method}
            return REFERENCE + json.dumps(reference).encode("utf-8")

        _add_method(program, method, function, ios, refer)


def _own_package(weights: WeightsFile, method: str, function: Function, ios: int) -> Callable[[], bytes]:
    """Give a package of one function; it takes the place of that of the method before."""
    # Mapped, not copied; all that is done with it can be done with bytes.
    return lambda: cast("bytes", write_package(weights, {method: function}, ios))


def _add_method(
    program: ProgramBuilder, name: str, function: Function, ios: int, make: Callable[[], bytes]
) -> None:
    method = program.method(name)
    signature = function.signature
    inputs = [method.input(_dtype(spec.dtype), _shape(spec.shape)) for spec in signature.inputs()]
    outputs = [method.output(_dtype(spec.dtype), _shape(spec.shape)) for spec in signature.outputs()]
    notes = {
        "compute_units": b"all",
        "min_deployment_target": str(SPECIFICATIONS[ios]).encode(),
        "model_compute_precision": b"float16",
        "model_type": b"model",  # compiled on the phone; only macOS could compile it here
    }
    method.delegate(BACKEND, make, [*inputs, *outputs], notes)


def _dtype(name: str) -> torch.dtype:
    return {"int64": torch.int64, "float16": torch.float16, "float32": torch.float32}[name]


def _shape(shape: tuple[int | str, ...]) -> list[int]:
    return [int(dim) for dim in shape]
