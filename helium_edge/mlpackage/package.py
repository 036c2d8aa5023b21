"""A CoreML package around functions: program, weights, the manifest of the package, and ExecuTorch's names.

Nothing in it is random, as it is in packages of coremltools and ExecuTorch: the same input gives the same bytes.
Phones keep compiled models under the package's identifier, so that one is a hash of the content: two exports never
share a cache entry, the same export always does.

Source: pytorch/executorch backends/apple/coreml/compiler/coreml_preprocess.py, apple/coremltools
mlmodel/format/Model.proto and modelpackage/src/ModelPackage.cpp.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coremltools.proto import FeatureTypes_pb2, Model_pb2

from helium_edge.mlpackage.builder import features
from helium_edge.mlpackage.flattened_folder import folder_table
from helium_edge.mlpackage.ios import SPECIFICATIONS
from helium_edge.mlpackage.weights_file import WeightsFile
from helium_edge.signature import GraphSignature, TextSignature

_MAIN = "main"
"""Name of the function of a package that has one."""

_NAMESPACE = uuid.UUID("6e0a8f52-9d38-5c6b-8a3e-4f2f1f3c7d10")
_ITEMS = {"weights": "Model Weights", "model.mlmodel": "Model Specification"}
_ROOT = "model.mlmodel"


@dataclass(frozen=True)
class Function:
    """A function of a package: `message` is the protobuf message that a `FunctionBuilder` gives."""

    signature: GraphSignature | TextSignature
    message: Any


def write_package(weights: WeightsFile, functions: Mapping[str, Function], ios: int) -> memoryview:
    """Append a program to its weights, so that file becomes a flattened package.

    Args:
        weights: The weights, closed; another program that was appended before is overwritten.
        functions: By method; several are functions of that name, a single one is `main`.
        ios: Deployment target.

    Returns:
        The package, mapped from the file: `model.mlpackage`, and ExecuTorch's names beside it.
    """
    model = _model(functions, ios)
    manifest = _manifest()
    digest = hashlib.sha256(hashlib.sha256(model).digest() + weights.digest() + manifest)
    names = {name: _names(function) for name, function in functions.items()}
    metadata: dict[str, Any] = {"methods": names} if len(names) > 1 else {**next(iter(names.values()))}
    metadata["identifier"] = f"helium_edge_{digest.hexdigest()[:32]}"
    package = "model.mlpackage"
    program = f"{package}/Data/com.apple.CoreML"
    texts = {
        f"{program}/model.mlmodel": model,
        f"{package}/Manifest.json": manifest,
        "metadata.json": json.dumps(metadata).encode("utf-8"),
    }
    sizes = {f"{program}/weights/weight.bin": weights.size} | {name: len(text) for name, text in texts.items()}
    with weights.path.open("r+b") as file:
        file.truncate(weights.size)
        file.seek(weights.size)
        for text in texts.values():
            file.write(text)
        file.write(folder_table(sizes, "coreml"))
        file.flush()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _model(functions: Mapping[str, Function], ios: int) -> bytes:
    model = Model_pb2.Model(specificationVersion=SPECIFICATIONS[ios])
    model.mlProgram.version = 1
    description = model.description
    for method, function in functions.items():
        described = description
        if len(functions) > 1:
            described = description.functions.add(name=method)
            model.mlProgram.functions[method].CopyFrom(function.message)
        else:
            model.mlProgram.functions[_MAIN].CopyFrom(function.message)
        for side, specs in (
            (described.input, function.signature.inputs()),
            (described.output, function.signature.outputs()),
        ):
            for name, value in features(specs).items():
                array = side.add(name=name).type.multiArrayType
                array.shape.extend(value.shape)
                array.dataType = FeatureTypes_pb2.ArrayFeatureType.ArrayDataType.Value(value.dtype.upper())
    if len(functions) > 1:
        description.defaultFunctionName = next(iter(functions))
    content: bytes = model.SerializeToString(deterministic=True)  # maps in order
    return content


def _names(function: Function) -> dict[str, list[str]]:
    """The order in which ExecuTorch hands values in and out: that of the method."""
    signature = function.signature
    return {"inputNames": list(features(signature.inputs())), "outputNames": list(features(signature.outputs()))}


def _manifest() -> bytes:
    """What a package says of its items, under names that are derived from what they are."""
    names = {item: str(uuid.uuid5(_NAMESPACE, f"com.apple.CoreML/{item}")) for item in _ITEMS}
    entries = {
        names[item]: {
            "author": "com.apple.CoreML",
            "description": f"CoreML {description}",
            "name": item,
            "path": f"com.apple.CoreML/{item}",
        }
        for item, description in _ITEMS.items()
    }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": names[_ROOT]}
    return json.dumps(manifest, indent=4, sort_keys=True).encode("utf-8")
