"""From the store to a `.pte`: weights and functions become a package, which the delegates of the program run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from helium_edge.mlpackage.ios import SHARING, SPECIFICATIONS
from helium_edge.mlpackage.package import Function, write_package
from helium_edge.mlpackage.weights_file import WeightsFile
from helium_edge.pte.builder import Data, Metadata, NamedData, ProgramBuilder
from helium_edge.quant import QuantizedStore
from helium_edge.runtime.coreml_program import BACKEND, REFERENCE
from helium_edge.signature import GraphSignature, TextSignature
from helium_edge.targets.coreml.decoder import build_function
from helium_edge.targets.coreml.packed import Packer

_DTYPES = {"int64": torch.int64, "float16": torch.float16, "float32": torch.float32}


def write_program(
    store: QuantizedStore,
    signatures: Sequence[GraphSignature | TextSignature],
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
        shared: NamedData | None = None
        if len(functions) > 1 and ios >= SHARING:
            content = torch.from_numpy(np.asarray(write_package(weights, functions, ios)))
            (shared,) = program.named({"coreml_": len(content)}, lambda: [content])
        for method, function in functions.items():

            def make(method: str = method, function: Function = function) -> Data:
                if shared is None:
                    return write_package(weights, {method: function}, ios)
                reference = {"version": 1, "key": shared.key, "functionName": method}
                return REFERENCE + json.dumps(reference).encode("utf-8")

            _add_method(program, function.signature, ios, make)
        program.write(path)


def _add_method(
    program: ProgramBuilder, signature: GraphSignature | TextSignature, ios: int, make: Callable[[], Data]
) -> None:
    """A method that hands everything to one delegate."""
    method = program.method(signature.phase)
    args = [
        add(_DTYPES[spec.dtype], [int(dim) for dim in spec.shape])
        for add, specs in ((method.input, signature.inputs()), (method.output, signature.outputs()))
        for spec in specs
    ]
    notes = {
        "compute_units": b"all",
        "min_deployment_target": str(SPECIFICATIONS[ios]).encode(),
        "model_compute_precision": b"float16",
        "model_type": b"model",  # compiled on the phone; only macOS could compile it here
    }
    method.delegate(BACKEND, make, args, notes)
