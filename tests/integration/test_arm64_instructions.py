"""The committed table of instructions and bytes is what the installed runtimes execute on ARM64."""

from __future__ import annotations

import importlib.util

import pytest

import arm64_instructions
from arm64.counting import find_counter
from arm64.wheels import library_folder
from helium_edge.errors import MissingToolError

try:
    find_counter()
except MissingToolError as missing:
    pytest.skip(str(missing), allow_module_level=True)

pytestmark = pytest.mark.full  # what compiles and emulates for another processor


@pytest.mark.parametrize(("runtime", "package"), [("onnx", "onnxruntime"), ("pte", "executorch")])
@pytest.mark.parametrize("cpu", arm64_instructions.CPUS)
def test_a_new_count_is_within_three_per_cent_of_the_table(
    runtime: str, package: str, cpu: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec(package) is None or not library_folder(package).is_dir():
        pytest.skip(f"{package} for ARM64 is not in the cache")
    code = arm64_instructions.main(["--runtime", runtime, "--cpu", cpu])
    assert code == 0, capsys.readouterr().out
