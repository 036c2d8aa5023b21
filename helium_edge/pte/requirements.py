"""What the methods of a `.pte` need of who runs them, read from the file's own tables.

Names of libraries are those of ExecuTorch's build (CMake); docs/bundle.md has what they are called elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from helium_edge.pte.executorch_schema import Tensor
from helium_edge.pte.file import PteFile

_KERNELS = {"aten": "portable_ops_lib", "quantized_decomposed": "quantized_ops_lib"}
"""Libraries of kernels by namespace; `executorch_prim` is in the runtime itself."""

_BACKENDS = {"XnnpackBackend": "xnnpack_backend", "CoreMLBackend": "coremldelegate"}


@dataclass(frozen=True)
class Requirements:
    """Of one method.

    Attributes:
        operators: Kernels as `namespace::name.overload`.
        libraries: Those that hold these kernels and the backends.
        planned_outputs: It has memory for what it returns, so that nobody need give it any.
    """

    operators: tuple[str, ...]
    libraries: tuple[str, ...]
    planned_outputs: bool


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
        outputs = [plan.values[index].val for index in plan.outputs]
        planned = all(each.allocation_info is not None for each in outputs if isinstance(each, Tensor))
        found[plan.name] = Requirements(tuple(sorted(operators)), tuple(sorted(libraries)), planned)
    return found
