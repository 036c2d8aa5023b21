from __future__ import annotations

import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable

import pytest
from helium_edge.cli import doctor

Cli = Callable[..., tuple[int, str, str]]


def stub_imports(monkeypatch: pytest.MonkeyPatch, stub: Callable[[str], object]) -> None:
    """Replace the import of what doctor looks for; typer, too, imports lazily, and must get the real thing."""
    real, stubbed = importlib.import_module, {entry[0] for entry in doctor.PACKAGES}

    def load(name: str, package: str | None = None) -> object:
        return stub(name) if name in stubbed else real(name, package)

    monkeypatch.setattr(doctor.importlib, "import_module", load)


@pytest.fixture(autouse=True)
def _light(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing everything is slow; what is installed is found by metadata."""
    stub_imports(monkeypatch, lambda name: sys)


def test_shows_versions_cores_memory_and_disk(cli: Cli) -> None:
    code, out, err = cli("doctor")
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for label in ("helium-edge:", "python:", "cores:", "memory:", "disk here:"):
        assert f"\n{label} " in f"\n{out}"
    assert importlib.metadata.version("torch") in out
    assert err == "next: helium-edge recipes\n"


def test_as_json(cli: Cli) -> None:
    document = json.loads(cli("doctor", "--json")[1])
    packages = {entry["name"]: entry for entry in document["packages"]}
    for name in ("torch", "onnx", "onnxruntime", "transformers", "onnxruntime-genai"):
        assert name in packages
    assert packages["torch"]["version"] == importlib.metadata.version("torch")
    assert packages["torch"]["status"] == "ok"
    assert document["cores"] >= 1
    assert 0 < document["disk_free_bytes"] <= document["disk_bytes"]
    assert 0 < document["memory_available_bytes"] <= document["memory_bytes"]


def test_a_missing_extra_comes_with_the_command_that_installs_it(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name == "transformers":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    code, out, _ = cli("doctor")
    assert code == 0
    assert "to have transformers: pip install '.[reference]'  # in a clone of helium-edge" in out
    entry = next(e for e in json.loads(cli("doctor", "--json")[1])["packages"] if e["name"] == "transformers")
    assert (entry["version"], entry["status"]) == (None, "missing")


def test_a_broken_package_says_how(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> object:
        if name == "torch":
            raise OSError("libc10.so: cannot open shared object file\nmore")
        return sys

    monkeypatch.undo()  # the stub of the fixture would be taken for the real import
    stub_imports(monkeypatch, broken)
    code, out, _ = cli("doctor")
    assert code == 0
    assert "broken: libc10.so: cannot open" in " ".join(out.split())
    assert "to have torch: pip install --force-reinstall torch" in out


def test_every_optional_package_is_in_an_extra_of_the_project() -> None:
    requirements = importlib.metadata.requires("helium-edge") or []
    for _, name, extra, _ in doctor.PACKAGES:
        found = [text for text in requirements if text.replace("_", "-").startswith(name.replace("_", "-"))]
        plain = any("extra ==" not in text for text in found)
        assert plain if extra is None else any(f'extra == "{extra}"' in text.replace("'", '"') for text in found)
