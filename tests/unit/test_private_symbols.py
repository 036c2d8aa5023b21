"""What the product takes of libraries that change: public names alone, and each exception with its reason."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import helium_edge

ROOT = Path(helium_edge.__file__).parent
LIBRARIES = ("executorch", "torchao", "coremltools")
MODULES = {
    # The binding that the public `executorch.runtime` is a wrapper of; importing the kernels registers operators.
    "executorch.extension.pybindings.portable_lib",
    "executorch.kernels.quantized",
    "executorch.runtime",
    # Messages and versions of Apple's format, and the reader of programs for our interpreter.
    "coremltools",
    "coremltools.proto",
    "coremltools.proto.Model_pb2",
    "coremltools.converters.mil",
    "coremltools.converters.mil.frontend.milproto.load",
    "coremltools.converters.mil.mil",
}
# The size of the thread pool has no public name.
PRIVATE_ATTRIBUTES = {"_threadpool_get_thread_count", "_unsafe_reset_threadpool"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Modules of those libraries that a file imports, by statement or by name."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            names = [node.value] if node.value.replace(".", "_").isidentifier() else []
        yield from (name for name in names if name.split(".")[0] in LIBRARIES)


def test_only_public_modules_are_imported() -> None:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")]
    found = {name for tree in trees for name in imported(tree)}
    assert found <= MODULES
    assert "executorch.runtime" in found


def test_private_attributes_are_those_that_are_listed() -> None:
    """Attributes with a leading underscore, of anything but `self` and `cls`, where executorch is used."""
    for path in (ROOT / "runtime").glob("executorch_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                assert owner in ("self", "cls") or node.attr in PRIVATE_ATTRIBUTES, f"{path.name}: {node.attr}"


def test_nothing_is_patched() -> None:
    for path in ROOT.rglob("*.py"):
        assert "unittest" not in path.read_text(encoding="utf-8"), path
