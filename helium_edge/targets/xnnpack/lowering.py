"""From torch modules to the bytes of a `.pte`: export, one XNNPACK delegate per method, no planned inputs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from helium_edge.errors import HeliumEdgeError
from helium_edge.runtime.executorch_library import load_modules
from helium_edge.runtime.quiet import quiet
from helium_edge.targets.xnnpack.graph import Method

Constant = bool | int | list[int]
"""What a metadata method returns."""

OUTSIDE = frozenset(
    {
        "executorch_prim::et_view",
        "aten::add", "aten::ge", "aten::eq", "aten::mul", "aten::_to_copy", "aten::index_select",
        "aten::ne", "aten::amax",
        "aten::embedding", "quantized_decomposed::embedding_byte", "quantized_decomposed::embedding_4bit",
    }
)  # fmt: skip
"""Operators that stand around the stack: they turn token ids and positions into its inputs."""


def load_exporter() -> None:
    """Import what lowering needs, quietly; it registers the operators that the decoder's parts call.

    Raises:
        MissingDependencyError: executorch is not installed, or it was built for another torch.
    """
    load_modules(
        (
            "torchao.quantization.quant_primitives",
            "executorch.exir",
            "executorch.exir.passes._quant_patterns_and_replacements",
            "executorch.backends.xnnpack.partition.xnnpack_partitioner",
        ),
        "an XNNPACK export",
    )


def lower(methods: Mapping[str, Method], constants: Mapping[str, Constant]) -> Any:
    """Lower the methods of one program; equal weights of several methods are stored once.

    Args:
        methods: By name; all over one stack.
        constants: Metadata methods: name and what they return.

    Returns:
        ExecuTorch's program manager; `write_to_file` writes the `.pte`.

    Raises:
        HeliumEdgeError: The exporter stopped, or an operator of the stack stayed outside the delegate.
    """
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    # Minutes for a large model: the caller's progress display must stay visible, so output is not captured.
    with quiet(descriptors=False):
        try:
            exported = {name: _export(methods[name]) for name in sorted(methods)}
            edge = to_edge_transform_and_lower(
                exported,
                partitioner={name: [_partitioner()] for name in exported},
                constant_methods=dict(sorted(constants.items())),
                # Dimension orders are those of contiguous tensors throughout; spelling them out costs a copy
                # operator of another name per reshape, which the delegate does not know.
                compile_config=EdgeCompileConfig(_check_ir_validity=False, _skip_dim_order=True),
            )
            planning = MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
            program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
        except (OSError, MemoryError):
            raise
        except Exception as error:  # the exporter raises many unrelated types
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise HeliumEdgeError(f"ExecuTorch cannot lower the graph: {first}") from error
    _require_one_delegate(program.executorch_program, methods)
    return program


def write_program(program: Any, path: Path) -> None:
    """Write the `.pte`.

    Raises:
        HeliumEdgeError: A weight that is written as a stream has other bytes than when it was lowered.
    """
    with path.open("wb") as file:
        program.write_to_file(file)


def _export(method: Method) -> Any:
    with torch.no_grad():
        program = torch.export.export(method.eval(), method.example_inputs(), strict=False)
    # Copied with the program, many times, though only their shapes are looked at; a cache may be a gigabyte.
    program._example_inputs = tree_map_only(torch.Tensor, _without_memory, program.example_inputs)
    return program


def _without_memory(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)


def _partitioner() -> Any:
    """XNNPACK's partitioner without what our graphs have no use for; lowering is nearly three times faster.

    The compile spec makes the backend run one of its seventeen graph passes, which are about convolutions,
    normalizations and the like. Without a check of support, operators that the backend wants whole are kept at
    once, where the partitioner would decompose the graph, look again and restore them.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir.backend.backend_details import CompileSpec
    from executorch.exir.backend.partitioner import DelegationSpec

    class Partitioner(XnnpackPartitioner):  # type: ignore[misc]  # untyped base
        def __init__(self) -> None:
            super().__init__()
            self.delegation_spec = DelegationSpec("XnnpackBackend", [CompileSpec("dqlinear_partitioner", b"")])

        def ops_to_not_decompose(self, program: Any) -> tuple[list[Any], None]:
            return super().ops_to_not_decompose(program)[0], None

    return Partitioner()


def _require_one_delegate(program: Any, methods: Mapping[str, Method]) -> None:
    for plan in program.execution_plan:
        if plan.name not in methods:
            continue
        outside = sorted({operator.name for operator in plan.operators} - OUTSIDE)
        if len(plan.delegates) != 1 or outside:
            raise HeliumEdgeError(
                f"method {plan.name}: {len(plan.delegates)} XNNPACK delegates and the operators {outside} outside "
                "them; exactly one delegate is allowed, and no operator of the layers beside it"
            )
