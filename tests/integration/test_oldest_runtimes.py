"""Every version that a bundle claims is true: the oldest claimed runtime runs it, the one before does not.

Each version is installed by pip into an environment of its own, which takes a minute, so that this is of the long
tier; where it cannot be installed the test is skipped and says so. What runs is examples/hosts.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from helium_edge.bundle import open_bundle
from helium_edge.exporting import ExportRequest, export_all
from helium_edge.recipe import Recipe, load_recipe, parse_recipe, recipe_names

pytestmark = pytest.mark.long

HOSTS = Path(__file__).parents[2] / "examples" / "hosts"
OLDER = """
name: older
targets:
  onnx: {min_runtime: '1.19'}
quantization:
  rules:
    - {match: 'model\\.embed_tokens\\.weight', scheme: int8}
    - {match: '.*', scheme: int4-g32}
gates: {}
"""
RECIPES = [*(name for name in recipe_names() if load_recipe(name).targets.names() == ("onnx",)), "older"]

RELEASES = {
    "1.19": ("1.19.0", "1.18.1"),
    "1.22": ("1.22.0", "1.21.1"),
    "1.23": ("1.23.0", "1.22.1"),
    "1.27": ("1.27.0", "1.26.0"),
}
"""By what a manifest claims: its first release, and the last one before."""

GENAI = ("0.12.2", "0.12.1")
"""Of onnxruntime-genai, as docs/bundle.md and the extra `genai` claim; older ones want logits of every token."""

_bundles: dict[str, Path] = {}
_environments: dict[tuple[str, ...], str] = {}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A recipe's bundle of helium-tiny, made once."""

    def make(name: str) -> Path:
        if name not in _bundles:
            recipe: Recipe = parse_recipe(OLDER, where=name) if name == "older" else load_recipe(name)
            _bundles[name] = tmp_path_factory.mktemp("oldest") / "bundle"
            export_all(ExportRequest("helium-tiny", recipe, _bundles[name], parity=False))
        return _bundles[name]

    return make


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """The Python of an environment with some packages, made once."""

    def make(*packages: str) -> str:
        if packages not in _environments:
            folder = tmp_path_factory.mktemp("environment")
            subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
            python = str(folder / "bin" / "python")
            pip = [python, "-m", "pip", "--quiet", "install", *packages]
            done = subprocess.run(pip, capture_output=True, text=True, check=False)
            _environments[packages] = python if done.returncode == 0 else ""
        if not _environments[packages]:
            pytest.skip(f"pip cannot install {' '.join(packages)} here")
        return _environments[packages]

    return make


def onnxruntime(version: str) -> tuple[str, ...]:
    """Releases before 1.19 were built for numpy 1."""
    minor = int(version.split(".")[1])
    return f"onnxruntime=={version}", "numpy<2" if minor < 19 else "numpy<2.3"


def run(python: str, host: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [python, str(HOSTS / host), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("flags", [(), ("--static",)], ids=["any", "static"])
@pytest.mark.parametrize("name", RECIPES)
def test_the_oldest_claimed_runtime_runs_it(
    name: str, flags: tuple[str, ...], bundle: Callable[[str], Path], environment: Callable[..., str]
) -> None:
    """With the golden ids, but for near ties: kernels of other versions round otherwise."""
    claimed = open_bundle(bundle(name)).manifest.runtime_min_version
    assert claimed is not None
    python = environment(*onnxruntime(RELEASES[claimed][0]))
    done = run(python, "onnxruntime_host.py", str(bundle(name)), *flags)
    assert done.returncode == 0, done.stdout + done.stderr[-500:]


@pytest.mark.parametrize("name", RECIPES)
def test_the_one_before_does_not(
    name: str, bundle: Callable[[str], Path], environment: Callable[..., str]
) -> None:
    """It refuses the graph, or computes something else in silence."""
    claimed = open_bundle(bundle(name)).manifest.runtime_min_version
    assert claimed is not None
    done = run(environment(*onnxruntime(RELEASES[claimed][1])), "onnxruntime_host.py", str(bundle(name)))
    assert done.returncode == 1, done.stdout
    assert "32 of 32" not in done.stdout


@pytest.mark.parametrize("name", RECIPES)
def test_the_newest_runtime_runs_it(
    name: str, bundle: Callable[[str], Path], environment: Callable[..., str]
) -> None:
    done = run(environment("onnxruntime", "numpy"), "onnxruntime_host.py", str(bundle(name)))
    assert done.returncode == 0, done.stdout + done.stderr[-500:]


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "onnx-int4-portable"])
@pytest.mark.parametrize(("version", "runs"), [(GENAI[0], True), (GENAI[1], False), ("", True)])
def test_onnxruntime_genai(
    name: str, version: str, runs: bool, bundle: Callable[[str], Path], environment: Callable[..., str]
) -> None:
    python = environment(f"onnxruntime-genai{f'=={version}' if version else ''}", "tokenizers", "numpy")
    done = run(python, "genai_host.py", str(bundle(name)))
    assert (done.returncode == 0) is runs, done.stdout + done.stderr[-500:]
