"""Bundles on hosts that import nothing of ours, in processes of their own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from helium_edge.exporting import ExportRequest, export_all
from helium_edge.recipe import load_recipe

HOSTS = Path(__file__).parents[2] / "examples" / "hosts"

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)


@pytest.fixture(scope="module", params=["xnnpack-int4", "xnnpack-int4-kv8"])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hosts") / "bundle"
    export_all(ExportRequest("helium-tiny", load_recipe(request.param), out, parity=False))
    return out


def run(bundle: Path) -> subprocess.CompletedProcess[str]:
    """In a process that cannot import helium_edge, since nothing of ours is on its path."""
    barred = "import runpy, sys; sys.modules['helium_edge'] = None; del sys.argv[0]; "
    barred += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", barred, str(HOSTS / "executorch_host.py"), str(bundle)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_golden_ids(bundle: Path) -> None:
    done = run(bundle)
    assert done.returncode == 0, done.stdout + done.stderr[-500:]
    assert "32 of 32 golden ids" in done.stdout


def test_a_host_that_is_one_slot_off_is_seen(bundle: Path, tmp_path: Path) -> None:
    """The comparison itself: a cache that starts one slot late gives other ids."""
    text = (HOSTS / "executorch_host.py").read_text(encoding="utf-8")
    broken = tmp_path / "broken.py"
    late = text.replace(
        "[:, self.length : self.length + len(ids)]", "[:, self.length + 1 : self.length + 1 + len(ids)]"
    )
    assert late != text
    broken.write_text(late)
    done = subprocess.run([sys.executable, str(broken), str(bundle)], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "32 of 32" not in done.stdout
