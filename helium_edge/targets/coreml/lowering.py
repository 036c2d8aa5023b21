"""From torch modules to the bytes of a `.pte`: export, one CoreML delegate per method, reproducible packages."""

from __future__ import annotations

import contextlib
import functools
import importlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from helium_edge.errors import HeliumEdgeError
from helium_edge.runtime.quiet import quiet
from helium_edge.targets.coreml.graph import CoremlHead, CoremlMethod
from helium_edge.targets.coreml.package import reproducible_packages

Method = CoremlMethod | CoremlHead

SHARING_IOS = 18
"""The first iOS whose packages hold several functions over one set of weights."""


def load_converter() -> None:
    """Import what lowering needs, quietly; it registers the operators that the decoder's parts call."""
    with quiet():
        for module in (
            "torchao.quantization.quant_primitives",
            "executorch.exir",
            "executorch.backends.apple.coreml.partition",
        ):
            importlib.import_module(module)


def lower(methods: Mapping[str, Method], constants: Mapping[str, Any], *, ios: int, scratch: Path) -> Any:
    """Lower the methods of one program.

    Args:
        methods: By name; all over one stack.
        constants: Metadata methods: name and what they return.
        ios: Deployment target. From 18 on the methods are functions of one package and share its weights; before,
            each method is a package of its own, with its own copy.
        scratch: Existing folder on a disk with room for a few copies of the weights; temporary files go there.

    Returns:
        ExecuTorch's program manager; `write_to_file` writes the `.pte`.

    Raises:
        HeliumEdgeError: Some operator stayed outside CoreML, or the conversion stopped.
    """
    from executorch.exir import EdgeCompileConfig, ExecutorchBackendConfig, to_edge_transform_and_lower
    from executorch.exir.passes import MemoryPlanningPass

    # Minutes for a large model: the caller's progress display must stay visible, so output is not captured.
    with quiet(descriptors=False), _scratch(scratch), _no_progress_bars(), reproducible_packages():
        exported = {name: _export(methods[name]) for name in sorted(methods)}
        try:
            edge = to_edge_transform_and_lower(
                exported,
                partitioner={name: [_partitioner(ios)] for name in exported},
                constant_methods=dict(sorted(constants.items())),
                compile_config=EdgeCompileConfig(_check_ir_validity=False),
            )
        except (OSError, MemoryError):
            raise
        except Exception as error:  # the converter raises many unrelated types
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise HeliumEdgeError(f"coremltools cannot convert the graph: {first}") from error
        planning = MemoryPlanningPass(alloc_graph_input=False, alloc_graph_output=False)
        program = edge.to_executorch(ExecutorchBackendConfig(memory_planning_pass=planning))
    _require_one_delegate(program.executorch_program, methods)
    return program


def _export(method: Method) -> Any:
    with torch.no_grad():
        return torch.export.export(method.eval(), method.example_inputs(), strict=False)


def _partitioner(ios: int) -> Any:
    import coremltools as ct
    from executorch.backends.apple.coreml.compiler import CoreMLBackend
    from executorch.backends.apple.coreml.compiler.coreml_preprocess import MULTIMETHOD_WEIGHT_SHARING_STRATEGY
    from executorch.backends.apple.coreml.partition import CoreMLPartitioner

    specs = CoreMLBackend.generate_compile_specs(
        compute_unit=ct.ComputeUnit.ALL,
        minimum_deployment_target=getattr(ct.target, f"iOS{ios}"),
        compute_precision=ct.precision.FLOAT16,
        model_type=CoreMLBackend.MODEL_TYPE.MODEL,  # compiled on the phone; only macOS could compile it here
    )
    strategy = MULTIMETHOD_WEIGHT_SHARING_STRATEGY
    sharing = strategy.POSITIONAL if ios >= SHARING_IOS else strategy.DISABLED
    specs.append(CoreMLBackend.generate_multimethod_weight_sharing_strategy_compile_spec(sharing))
    # The full graph or an error that names the operator: nothing of the decoder may stay outside in silence.
    return CoreMLPartitioner(compile_specs=specs, lower_full_graph=True)


@contextlib.contextmanager
def _scratch(folder: Path) -> Iterator[None]:
    """Put the converter's temporary packages, several copies of the weights, where there is room; remove them."""
    with (
        tempfile.TemporaryDirectory(prefix="coreml-", dir=folder) as scratch,
        mock.patch.object(tempfile, "tempdir", scratch),
    ):
        yield


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Switch off the converter's own progress bars; they cannot be disabled by any option."""
    from tqdm import tqdm

    with mock.patch.object(tqdm, "__init__", functools.partialmethod(tqdm.__init__, disable=True)):
        yield


def _require_one_delegate(program: Any, methods: Mapping[str, Method]) -> None:
    for plan in program.execution_plan:
        if plan.name not in methods:
            continue
        outside = [operator.name for operator in plan.operators]
        if len(plan.delegates) != 1 or outside:
            raise HeliumEdgeError(
                f"method {plan.name}: {len(plan.delegates)} CoreML delegates and the operators {outside} outside; "
                "exactly one delegate and no operator is allowed"
            )
