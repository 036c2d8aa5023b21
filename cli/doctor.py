"""`helium-edge doctor`: what this machine has, and what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

import typer

from helium_edge import __version__
from helium_edge.errors import how_to_install

from . import _console
from ._format import size
from ._options import JsonOption

EPILOG = """\b
Example:
  helium-edge doctor --json
"""

# Import name, distribution, the extra that brings it (None: always installed) and what it is for.
PACKAGES = (
    ("torch", "torch", None, "quantization"),
    ("onnx", "onnx", None, "checking graphs"),
    ("onnx_ir", "onnx-ir", None, "building graphs"),
    ("onnxruntime", "onnxruntime", None, "running graphs"),
    ("tokenizers", "tokenizers", None, "text"),
    ("huggingface_hub", "huggingface_hub", None, "downloads"),
    ("transformers", "transformers", "reference", "parity with the original"),
    ("executorch", "executorch", "executorch", "target xnnpack"),
    ("coremltools", "coremltools", "coreml", "target coreml"),
    ("jinja2", "jinja2", None, "chat templates, the HTML report"),
    ("matplotlib", "matplotlib", "report", "its charts"),
    ("onnxruntime_genai", "onnxruntime-genai", "genai", "checking bundles for it"),
    ("optimum.onnxruntime", "optimum-onnx", "optimum", "optimum-cli export helium-edge"),
)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", short_help="Show versions, memory, disk and missing packages.", epilog=EPILOG)(doctor)


def doctor(as_json: JsonOption = False) -> None:
    """Show versions, memory, disk and missing packages: what to add to a bug report."""
    machine = _machine()
    packages = [_package(*entry) for entry in PACKAGES]
    if as_json:
        _console.document({"helium_edge": __version__, **machine, "packages": packages})
    else:
        _console.fields(
            [
                ("helium-edge", __version__),
                ("python", f"{machine['python']} on {machine['platform']}"),
                ("cores", machine["cores"]),
                ("memory", _of(machine["memory_available_bytes"], machine["memory_bytes"])),
                ("disk here", _of(machine["disk_free_bytes"], machine["disk_bytes"])),
            ]
        )
        _console.line("")
        rows = [(entry["name"], entry["version"] or "-", entry["purpose"], entry["status"]) for entry in packages]
        _console.table(["package", "version", "for", "status"], rows)
        for entry in packages:
            if entry["status"] != "ok":
                _console.line(f"to have {entry['name']}: {entry['install']}")
    _console.next_step("recipes")


def _machine() -> dict[str, object]:
    disk = shutil.disk_usage(Path.cwd())
    total, available = _memory()
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True) + " " + platform.machine(),
        "cores": len(affinity(0)) if affinity is not None else os.cpu_count(),
        "memory_bytes": total,
        "memory_available_bytes": available,
        "disk_bytes": disk.total,
        "disk_free_bytes": disk.free,
    }


def _memory() -> tuple[int | None, int | None]:
    """Total and available bytes; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = {name: int(rest.split()[0]) * 1024 for name, _, rest in (text.partition(":") for text in lines)}
        return found["MemTotal"], found["MemAvailable"]
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), None
    except (AttributeError, OSError, ValueError):
        return None, None


def _of(free: object, total: object) -> str:
    if not isinstance(total, int):
        return "unknown"
    return f"{size(free)} free of {size(total)}" if isinstance(free, int) else size(total)


def _package(module: str, name: str, extra: str | None, purpose: str) -> dict[str, str | None]:
    """Version and state of a package; it is imported, because a broken one is found in no other way."""
    try:
        version: str | None = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = None
    status = "missing" if version is None else "ok"
    if version is not None:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a broken installation raises
            from helium_edge.documents import first_line

            status = f"broken: {first_line(error)}"
    broken = status.startswith("broken")
    install = f"pip install --force-reinstall {name}" if broken else how_to_install(extra)
    return {"name": name, "version": version, "purpose": purpose, "status": status, "install": install}
