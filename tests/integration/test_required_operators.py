"""What a manifest says that its graphs need is what their files hold, by the libraries that wrote the formats."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from helium_edge.bundle import open_bundle
from helium_edge.exporting import ExportRequest, export_all
from tests.helpers.bundles import bundle_recipe


@pytest.mark.parametrize("recipe", ["onnx-int4", "onnx-int4-portable", "web-int4"])
def test_of_an_onnx_bundle(recipe: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    export_all(ExportRequest(str(tiny_checkpoint), bundle_recipe(recipe), tmp_path / "b", parity=False))
    for graph in open_bundle(tmp_path / "b").manifest.graphs:
        model = onnx.load(tmp_path / "b" / graph.file, load_external_data=False)
        found = {(node.domain or "ai.onnx", node.op_type) for node in model.graph.node}
        assert list(graph.required_operators) == sorted("::".join(pair) for pair in found)
        assert graph.required_libraries == ()
        assert not graph.planned_outputs


@pytest.mark.parametrize(
    ("recipe", "libraries"),
    [
        ("xnnpack-int4", ("portable_ops_lib", "quantized_ops_lib", "xnnpack_backend")),
        ("xnnpack-fp32", ("portable_ops_lib", "xnnpack_backend")),
    ],
)
def test_of_a_program(recipe: str, libraries: tuple[str, ...], tiny_checkpoint: Path, tmp_path: Path) -> None:
    program = pytest.importorskip("executorch.exir._serialize._program", exc_type=ImportError)
    out = tmp_path / "b"
    export_all(ExportRequest(str(tiny_checkpoint), bundle_recipe(recipe), out, parity=False, run=False))
    data = (out / "decoder.pte").read_bytes()
    plans = {plan.name: plan for plan in program.deserialize_pte_binary(data).program.execution_plan}
    for graph in open_bundle(out).manifest.graphs:
        names = {f"{each.name}.{each.overload}" for each in plans[str(graph.method)].operators}
        assert set(graph.required_operators) == names
        assert graph.required_libraries == libraries
        tensors = [plans[str(graph.method)].values[index].val for index in plans[str(graph.method)].outputs]
        assert graph.planned_outputs
        assert all(each.allocation_info is not None for each in tensors)


@pytest.mark.parametrize("recipe", ["coreml-fp16", "coreml-int8"])
def test_of_a_coreml_program(recipe: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("coremltools")
    out = tmp_path / "b"
    export_all(ExportRequest(str(tiny_checkpoint), bundle_recipe(recipe), out, parity=False, run=False))
    for graph in open_bundle(out).manifest.graphs:
        assert "coremldelegate" in graph.required_libraries
        assert graph.planned_outputs
