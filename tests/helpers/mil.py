"""MIL functions that are written by our builder and evaluated by our interpreter, without a model around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from helium_edge.mlpackage.builder import FunctionBuilder
from helium_edge.mlpackage.flattened_folder import FlattenedFolder
from helium_edge.mlpackage.package import Function, write_package
from helium_edge.mlpackage.weights_file import WeightsFile
from helium_edge.runtime.mil_interpreter import MilFunction
from helium_edge.signature import TensorSpec

PACKAGE_FILES = (
    "model.mlpackage/Data/com.apple.CoreML/model.mlmodel",
    "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin",
    "model.mlpackage/Manifest.json",
    "metadata.json",
)


def spec(name: str, *shape: int, dtype: str = "float16") -> TensorSpec:
    """An input or output of any role."""
    return TensorSpec(name, "tokens", dtype, shape)


def signature(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Any:
    """A signature of just these."""
    return SimpleNamespace(inputs=lambda: tuple(inputs), outputs=lambda: tuple(outputs))


def write_function(
    folder: Path,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    body: Callable[[FunctionBuilder, WeightsFile], None],
    ios: int = 18,
) -> memoryview:
    """A flattened package of one function in a file of that folder."""
    declared = signature(inputs, outputs)
    with WeightsFile(folder / "package") as weights:
        builder = FunctionBuilder(declared, weights, ios)
        body(builder, weights)
        message = builder.build()
    return write_package(weights, {"main": Function(declared, message)}, ios)


def unfold(package: memoryview, folder: Path) -> Path:
    """Write the files of a flattened package; gives `model.mlpackage`."""
    flat = FlattenedFolder(package)
    for name in PACKAGE_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(flat.file(name))
    return folder / "model.mlpackage"


def load_function(package: memoryview, folder: Path) -> MilFunction:
    """The function of a package as coremltools reads it, ready to be evaluated."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto import load

    path = unfold(package, folder)
    model = coremltools.utils.load_spec(str(path))
    program = load.load(model, model.specificationVersion, str(path / "Data/com.apple.CoreML/weights"))
    return MilFunction(program.functions["main"])
