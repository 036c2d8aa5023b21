"""Bundles on the hosts of examples/hosts, which import nothing of ours, in processes of their own.

Each makes the golden ids, and a copy of it that keeps its cache one slot off does not: the comparison sees it.
The browser has tests of its own, test_web.py, and the oldest runtimes as well, test_oldest_runtimes.py.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from arm64.wheels import Library
from helium_edge.exporting import ExportRequest, export_all
from helium_edge.recipe import load_recipe
from tests.helpers.node import node, node_modules

HOSTS = Path(__file__).parents[2] / "examples" / "hosts"
MAX_LINES = 80

ONNX = ("onnx-int4", "onnx-int8", "onnx-int4-portable", "onnx-int4-kv8", "onnx-int4-kv16", "web-int4")
GENAI = tuple(name for name in ONNX if name != "onnx-int4-portable")
PTE = ("xnnpack-int4", "xnnpack-int4-kv8", "xnnpack-int4-kv16")

LATE = {
    "onnxruntime_host.py": ("self.length += len(ids)", "self.length += len(ids) + 1"),
    "onnxruntime_node_host.mjs": ("this.length += ids.length;", "this.length += ids.length + 1;"),
    # It owns no cache; a prompt without its first token moves every slot.
    "genai_host.py": ("append_tokens(ids)", "append_tokens(ids[1:])"),
    "executorch_host.py": ("self.length += len(ids)", "self.length += len(ids) + 1"),
    "executorch_host.cpp": ("length += ids.size();", "length += ids.size() + 1;"),
}
"""What makes each host leave a slot out after every call."""

Done = subprocess.CompletedProcess[str]
_bundles: dict[str, Path] = {}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A recipe's bundle of helium-tiny, made once."""

    def make(recipe: str) -> Path:
        if recipe not in _bundles:
            if recipe in PTE and importlib.util.find_spec("executorch") is None:
                pytest.skip("executorch is not installed")
            out = tmp_path_factory.mktemp("hosts") / "bundle"
            export_all(ExportRequest("helium-tiny", load_recipe(recipe), out, parity=False))
            _bundles[recipe] = out
        return _bundles[recipe]

    return make


def run_python(host: Path, bundle: Path, *flags: str) -> Done:
    """In a process that cannot import helium_edge, since nothing of ours is on its path."""
    barred = "import runpy, sys; sys.modules['helium_edge'] = None; del sys.argv[0]; "
    barred += "runpy.run_path(sys.argv[0], run_name='__main__')"
    return run([sys.executable, "-c", barred, str(host), str(bundle), *flags])


def run_node(host: Path, bundle: Path, *flags: str) -> Done:
    """Node looks for packages beside the script, and above it."""
    folder, program = node_modules("onnxruntime-node"), node()
    place = bundle.parent / "node"
    place.mkdir(exist_ok=True)
    if not (place / "node_modules").exists():
        (place / "node_modules").symlink_to(folder)
    script = Path(shutil.copy(host, place))
    return run([program, str(script), str(bundle), *flags])


def run_cpp(host: Path, bundle: Path) -> Done:
    """Compiled against the C++ libraries in executorch's wheel; it prints ids, which are compared here."""
    spec = importlib.util.find_spec("executorch")
    compiler = shutil.which("g++")
    if spec is None or not spec.submodule_search_locations or compiler is None or sys.platform != "linux":
        pytest.skip("executorch's libraries for Linux or g++ are not installed")
    library = Library("executorch", "installed", Path(spec.submodule_search_locations[0]).parent)
    program = bundle.parent / f"{host.stem}-{host.parent.name}"
    if not program.exists():
        done = run([compiler, "-std=c++17", str(host), *library.compiler_arguments(), "-o", str(program)])
        assert done.returncode == 0, done.stderr[-2000:]
    golden = json.loads((bundle / "helium-edge.json").read_text(encoding="utf-8"))["golden"]
    ids = [str(each) for each in golden["prompt_ids"]]
    done = run([str(program), str(bundle / "decoder.pte"), str(len(golden["greedy_ids"])), *ids])
    found = [int(line) for line in done.stdout.split()]
    same = sum(one == other for one, other in zip(found, golden["greedy_ids"], strict=False))
    wrong = int(found != golden["greedy_ids"])
    return Done(
        done.args, done.returncode or wrong, f"{same} of {len(golden['greedy_ids'])} golden ids", done.stderr
    )


def run(command: list[str]) -> Done:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def run_host(host: Path, bundle: Path, *flags: str) -> Done:
    runs: dict[str, Any] = {".py": run_python, ".mjs": run_node, ".cpp": run_cpp}
    for module, name in (("onnxruntime_genai", "genai_host"), ("executorch", "executorch_host")):
        if host.stem == name and importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    done: Done = runs[host.suffix](host, bundle, *flags)
    return done


def case(host: str, recipe: str, *flags: str) -> Any:
    """An int8 cache is calibrated first, which takes its time."""
    marks = [pytest.mark.full] if recipe.endswith("-kv8") else []
    return pytest.param(host, recipe, flags, marks=marks, id="-".join([host, recipe, *flags]))


CASES = [
    *(case("onnxruntime_host.py", recipe, *flags) for recipe in ONNX for flags in ((), ("--static",))),
    *(case("onnxruntime_node_host.mjs", recipe, *flags) for recipe in ONNX for flags in ((), ("--static",))),
    *(case("genai_host.py", recipe) for recipe in GENAI),
    *(case("executorch_host.py", recipe) for recipe in PTE),
    *(case("executorch_host.cpp", recipe) for recipe in PTE),
]


@pytest.mark.parametrize(("host", "recipe", "flags"), CASES)
def test_the_golden_ids(host: str, recipe: str, flags: tuple[str, ...], bundle: Callable[[str], Path]) -> None:
    """The same kernels as those that recorded the trace: all ids, without a near tie."""
    done = run_host(HOSTS / host, bundle(recipe), *flags)
    assert "32 of 32 golden ids" in done.stdout, done.stdout + done.stderr[-500:]
    assert done.returncode == 0


@pytest.mark.parametrize(("host", "recipe", "flags"), CASES)
def test_a_host_that_is_one_slot_off_is_seen(
    host: str, recipe: str, flags: tuple[str, ...], bundle: Callable[[str], Path], tmp_path: Path
) -> None:
    text = (HOSTS / host).read_text(encoding="utf-8")
    assert text.count(LATE[host][0]) == 1
    broken = tmp_path / host
    broken.write_text(text.replace(*LATE[host]), encoding="utf-8")
    done = run_host(broken, bundle(recipe), *flags)
    assert done.returncode == 1, done.stdout + done.stderr[-500:]
    assert "golden ids" in done.stdout, done.stderr[-500:]
    assert "32 of 32" not in done.stdout


IN_THE_WHEEL = {
    "portable_ops_lib": "executorch_kernels_optimized",
    "quantized_ops_lib": "executorch_kernels_quantized",
    "xnnpack_backend": "executorch_backend_xnnpack",
}


@pytest.mark.full
def test_each_required_library_is_needed(bundle: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is linked with all of them runs (above); one that lacks one does not load the methods."""
    folder = bundle("xnnpack-int4")
    graphs = json.loads((folder / "helium-edge.json").read_text(encoding="utf-8"))["graphs"]
    assert {name for graph in graphs for name in graph["required_libraries"]} == IN_THE_WHEEL.keys()
    needed = {name for graph in graphs for name in graph["required_operators"]}
    assert "quantized_decomposed::embedding_byte.out" in needed
    whole = Library.compiler_arguments
    for library in IN_THE_WHEEL.values():
        monkeypatch.setattr(
            Library, "compiler_arguments", lambda self, left=library: [a for a in whole(self) if a != f"-l{left}"]
        )
        copy = folder.parent / library
        copy.mkdir()
        done = run_cpp(Path(shutil.copy(HOSTS / "executorch_host.cpp", copy)), folder)
        assert done.returncode == 1, library
        assert "cannot load prefill" in done.stderr


def test_hosts_are_short_and_every_one_is_tested() -> None:
    files = sorted(path for path in HOSTS.iterdir() if path.is_file())
    lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert lines.keys() == LATE.keys() == {each.values[0] for each in CASES}
    assert {name: count for name, count in lines.items() if count >= MAX_LINES} == {}
    assert not [path.name for path in files if "import helium_edge" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", ["onnxruntime_host.py", "genai_host.py", "onnxruntime_node_host.mjs"])
def test_hosts_switch_telemetry_off_before_the_runtime_is_loaded(name: str) -> None:
    text = (HOSTS / name).read_text(encoding="utf-8")
    off, loaded = (
        re.search(pattern, text, re.MULTILINE)
        for pattern in (
            r"^(os\.environ\.setdefault|process\.env\.)\W*ORT_DISABLE_TELEMETRY\W+1",
            r"^(const .*)?import\b.*onnxruntime",
        )
    )
    assert off
    assert loaded
    assert off.start() < loaded.start()
