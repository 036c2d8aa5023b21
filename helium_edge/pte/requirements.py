"""What a runtime must be linked with to run the methods of a `.pte`, read from the file's own tables.

Names of libraries are those of ExecuTorch's build (CMake); docs/bundle.md has what they are called elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helium_edge.pte.file import PteFile

_KERNELS = {"aten": "portable_ops_lib", "quantized_decomposed": "quantized_ops_lib"}
"""Libraries of kernels by namespace; `executorch_prim` is in the runtime itself."""

_BACKENDS = {"XnnpackBackend": "xnnpack_backend", "CoreMLBackend": "coremldelegate"}


@dataclass(frozen=True)
class Requirements:
    """Of one method: kernels as `namespace::name.overload`, and the libraries that hold them and the backends."""

    operators: tuple[str, ...]
    libraries: tuple[str, ...]


def read_requirements(path: Path) -> dict[str, Requirements]:
    """Requirements by method.

    Raises:
        BundleError: Not readable as an ExecuTorch program.
        KeyError: It calls kernels of a namespace, or a backend, that none of our programs has.
    """
    found = {}
    for plan in PteFile(path).program.execution_plan:
        operators = {f"{each.name}.{each.overload}" if each.overload else each.name for each in plan.operators}
        namespaces = {name.partition("::")[0] for name in operators} - {"executorch_prim"}
        libraries = {_KERNELS[name] for name in namespaces} | {_BACKENDS[each.id] for each in plan.delegates}
        found[plan.name] = Requirements(tuple(sorted(operators)), tuple(sorted(libraries)))
    return found
