"""Packages of functions: what coremltools reads of them, what ExecuTorch finds, and what makes them differ."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if importlib.util.find_spec("coremltools") is None:
    pytest.skip("coremltools is not installed", allow_module_level=True)

from helium_edge.runtime.quiet import quiet

with quiet():
    import coremltools
    from coremltools.converters.mil.frontend.milproto import load as milproto

    from helium_edge.mlpackage.builder import FunctionBuilder
    from helium_edge.mlpackage.flattened_folder import FlattenedFolder
    from helium_edge.mlpackage.package import Function, write_package
    from helium_edge.mlpackage.weights_file import WeightsFile
    from tests.helpers.mil import load_function, signature, spec, unfold, write_function

X = [spec("input.x", 2, 16)]
OUTPUTS = [spec(f"output.{index}", 2, 16, dtype="float32") for index in range(12)]
TABLE = np.arange(16, dtype=np.float16)


def body(b: FunctionBuilder, weights: WeightsFile, table: Any = TABLE, factor: float = 1.0) -> None:
    for index, output in enumerate(OUTPUTS):
        b.scope(f"part.{index}")
        scaled = b.op("mul", (2, 16), x=b.inputs["input.x"], y=np.float16(factor * index))
        b.op("add", (2, 16), output=output.name, x=scaled, y=table)


def metadata(package: memoryview) -> Any:
    return json.loads(bytes(FlattenedFolder(package).file("metadata.json")))


def test_a_function_computes_what_it_says(tmp_path: Path) -> None:
    function = load_function(write_function(tmp_path, X, OUTPUTS, body), tmp_path)
    assert function.inputs == ("input_x",)
    x = np.ones((2, 16), np.float16)
    found = function({"input_x": x})
    assert list(found) == [f"output_{index}" for index in range(12)]
    for index in range(12):
        assert np.array_equal(found[f"output_{index}"], x * index + TABLE)


@pytest.mark.parametrize(("ios", "version", "operators"), [(17, 8, "CoreML7"), (18, 9, "CoreML8")])
def test_one_function_is_main(ios: int, version: int, operators: str, tmp_path: Path) -> None:
    package = write_function(tmp_path, X, OUTPUTS, body, ios)
    path = unfold(package, tmp_path)
    with quiet():
        model = coremltools.models.MLModel(str(path), skip_model_load=True).get_spec()
    assert model.specificationVersion == version
    (function,) = model.mlProgram.functions.items()
    assert (function[0], function[1].opset) == ("main", operators)
    for each in (*model.description.input, *model.description.output):
        assert list(each.type.multiArrayType.shape) == [2, 16]
    assert metadata(package)["inputNames"] == ["input_x"]
    # In the order of the method, which is not that of the alphabet: 10 comes after 9.
    assert metadata(package)["outputNames"] == [each.name for each in model.description.output]
    assert metadata(package)["outputNames"] == [f"output_{index}" for index in range(12)]


def test_several_functions_have_their_names_and_share_constants(tmp_path: Path) -> None:
    declared = signature(X, OUTPUTS)
    with WeightsFile(tmp_path / "package") as weights:
        functions = {}
        for name, factor in (("decode", 1.0), ("prefill", 2.0)):
            builder = FunctionBuilder(declared, weights, 18)
            body(builder, weights, factor=factor)
            functions[name] = Function(declared, builder.build())
        assert weights.size == 64 + 64 + 64  # the header, and the record and the bytes of one table
    package = write_package(weights, functions, 18)
    path = unfold(package, tmp_path)
    with quiet():
        model = coremltools.utils.load_spec(str(path))
        folder = path / "Data/com.apple.CoreML/weights"
        program = milproto.load(model, model.specificationVersion, str(folder))
    assert sorted(program.functions) == ["decode", "prefill"]  # a map, whose order is nobody's
    assert model.description.defaultFunctionName == "decode"
    assert [each.name for each in model.description.functions] == ["decode", "prefill"]
    assert set(metadata(package)["methods"]) == {"decode", "prefill"}


def test_the_same_input_gives_the_same_bytes_and_another_another_identifier(tmp_path: Path) -> None:
    variants: dict[str, Any] = {
        "first": {}, "again": {}, "weights": {"table": TABLE + 1}, "program": {"factor": 2.0},
    }  # fmt: skip
    packages = {}
    for name, options in variants.items():
        (tmp_path / name).mkdir()

        def changed(b: FunctionBuilder, weights: WeightsFile, options: Any = options) -> None:
            body(b, weights, **options)

        packages[name] = bytes(write_function(tmp_path / name, X, OUTPUTS, changed))
    assert packages["first"] == packages["again"]
    identifiers = {name: metadata(memoryview(package))["identifier"] for name, package in packages.items()}
    assert len(set(identifiers.values())) == 3


def test_another_package_takes_the_place_of_the_first(tmp_path: Path) -> None:
    declared = signature(X, OUTPUTS)
    with WeightsFile(tmp_path / "package") as weights:
        builder = FunctionBuilder(declared, weights, 17)
        body(builder, weights)
        message = builder.build()
    first = bytes(write_package(weights, {"first": Function(declared, message)}, 17))
    longer = {name: Function(declared, message) for name in ("one", "two")}
    assert len(write_package(weights, longer, 18)) > len(first)
    assert bytes(write_package(weights, {"first": Function(declared, message)}, 17)) == first


def test_constants_are_written_once(tmp_path: Path) -> None:
    def twice(b: FunctionBuilder, weights: WeightsFile) -> None:
        x = b.inputs["input.x"]
        blob = weights.add([torch.ones(16, dtype=torch.float16)], "float16", (16,))
        for _ in range(2):
            x = b.op("add", (2, 16), x=b.op("mul", (2, 16), x=x, y=b.stored(blob, "gain")), y=np.float16(3))
            x = b.op("slice_by_index", (2, 16), x=x, begin=[0, 0], end=[2, 16], end_mask=[True, True])
        b.op("identity", (2, 16), output="y", x=x)

    package = write_function(tmp_path, X, [spec("y", 2, 16)], twice)
    with quiet():
        model = coremltools.utils.load_spec(str(unfold(package, tmp_path)))
    block = model.mlProgram.functions["main"].block_specializations["CoreML8"]
    names = [operation.outputs[0].name for operation in block.operations]
    assert len(names) == len(set(names))
    assert [operation.type for operation in block.operations].count("const") == 5


@pytest.mark.parametrize(
    ("outputs", "shape", "message"),
    [
        ([spec("y", 2, 8)], (2, 16), r"y is float16\(2, 16\), not "),
        ([spec("y", 2, 16, dtype="int64")], (2, 16), "not .*int32"),
        ([], (2, 16), r"outputs outside the signature: \['y'\]"),
    ],
)
def test_outputs_are_those_of_the_signature(outputs: Any, shape: Any, message: str, tmp_path: Path) -> None:
    def wrong(b: FunctionBuilder, _: WeightsFile) -> None:
        b.op("identity", shape, output="y", x=b.inputs["input.x"])

    with pytest.raises(AssertionError, match=message):
        write_function(tmp_path, X, outputs, wrong)


def test_coremltools_checks_the_shapes_that_are_written_down(tmp_path: Path) -> None:
    def wrong(b: FunctionBuilder, _: WeightsFile) -> None:
        x = b.op("transpose", (2, 16), x=b.inputs["input.x"], perm=[1, 0])
        b.op("identity", (2, 16), output="y", x=x)

    package = write_function(tmp_path, X, [spec("y", 2, 16)], wrong)
    with quiet(), pytest.raises(AssertionError, match="Mismatch between var types"):
        load_function(package, tmp_path)
