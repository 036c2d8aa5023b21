"""A small interpreter of CoreML programs: what a `.mlpackage` says, evaluated in numpy on any machine.

It evaluates a function of a MIL program operator by operator, each result rounded to the type that the program
declares for it: float16 stays float16 between operators. It checks the program and its weights; it says nothing of
Apple's kernels, which are not run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from helium_edge.errors import BundleError
from helium_edge.runtime.mil_ops import OPERATORS, Array, Operator, dequantize_blockwise, dequantize_per_channel

_POOLED_BYTES = 1 << 12

# These move numbers and change none: widening them first would only cost time.
_MOVES = frozenset({
    "cast", "concat", "expand_dims", "gather", "identity",
    "reshape", "select", "slice_by_index", "split", "transpose",
})  # fmt: skip


@dataclass(frozen=True)
class _Step:
    """One operator, its arguments resolved to constants or to names of values."""

    name: str
    type: str
    operator: Operator
    constants: dict[str, Any]
    variables: dict[str, str | list[str]]
    outputs: tuple[tuple[str, np.dtype[Any]], ...]
    last_use: tuple[str, ...]


class MilFunction:
    """One function of a CoreML program, ready to run.

    Args:
        function: A `coremltools` MIL function, as `milproto.load` returns it.
        pool: Large constants by content; functions that get the same one hold their common weights once.

    Attributes:
        inputs: Names of the inputs, in order.
        outputs: Names of the outputs, in order.

    Raises:
        BundleError: The program uses an operator that the interpreter does not know.
    """

    def __init__(self, function: Any, pool: dict[str, Array] | None = None) -> None:
        self.inputs = tuple(function.inputs)
        self.outputs = tuple(variable.name for variable in function.outputs)
        self._steps: list[_Step] = []
        constants: dict[str, Array] = {}
        pool = {} if pool is None else pool
        operations = list(function.operations)
        last_use = _last_uses(operations, keep=set(self.outputs))
        for operation in operations:
            if operation.op_type == "const":
                continue
            if operation.op_type in CONSTANT_OPERATORS:
                constants[operation.outputs[0].name] = evaluate_constant(operation)
                continue
            last = tuple(last_use.get(operation.name, ()))
            self._steps.append(_resolve(operation, constants, pool, last))

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Evaluate the function.

        Args:
            inputs: Every input by name, in the type that the program declares.

        Returns:
            Every output by name.

        Raises:
            BundleError: An operator cannot be evaluated on these inputs.
        """
        values: dict[str, Array] = dict(inputs)
        with np.errstate(all="ignore"):  # infinities are results like any other: hardware does not stop at them
            for step in self._steps:
                _run(step, values)
        return {name: values[name] for name in self.outputs}


def evaluate_constant(operation: Any) -> Array:
    """The value of a `constexpr` operator: a weight, dequantized and rounded to the declared type."""
    output = operation.outputs[0]
    return CONSTANT_OPERATORS[operation.op_type](operation).astype(_numpy_dtype(output))


def _value(operation: Any, name: str) -> Any:
    variable = operation.inputs.get(name)
    return None if variable is None else variable.val


CONSTANT_OPERATORS: dict[str, Callable[[Any], Array]] = {
    "constexpr_affine_dequantize": lambda operation: dequantize_per_channel(
        _value(operation, "quantized_data"),
        np.asarray(_value(operation, "scale")),
        np.asarray(_value(operation, "zero_point")),
        int(_value(operation, "axis")),
    ),
    "constexpr_blockwise_shift_scale": lambda operation: dequantize_blockwise(
        _value(operation, "data"), _value(operation, "scale"), _value(operation, "offset")
    ),
}
"""Operators whose result is a constant of the program, by MIL name."""


def _run(step: _Step, values: dict[str, Array]) -> None:
    arguments = dict(step.constants)
    for name, source in step.variables.items():
        found = [values[part] for part in source] if isinstance(source, list) else values[source]
        arguments[name] = found if step.type in _MOVES else _widen(found)
    try:
        results = step.operator(arguments)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise BundleError(f"the CoreML operator {step.type} {step.name} cannot be evaluated: {error}") from error
    results = results if isinstance(results, list) else [results]
    for (name, dtype), result in zip(step.outputs, results, strict=True):
        values[name] = np.asarray(result).astype(dtype, copy=False)
    for name in step.last_use:
        del values[name]


def _widen(value: Any) -> Any:
    """float16 as float32; everything else as it is."""
    if isinstance(value, list):
        return [_widen(part) for part in value]
    return value.astype(np.float32) if getattr(value, "dtype", None) == np.float16 else value


def _resolve(
    operation: Any, constants: Mapping[str, Array], pool: dict[str, Array], last_use: tuple[str, ...]
) -> _Step:
    if operation.op_type not in OPERATORS:
        raise BundleError(
            f"the CoreML program uses the operator {operation.op_type}, which the interpreter does not know"
        )
    fixed: dict[str, Any] = {}
    variables: dict[str, str | list[str]] = {}
    for name, argument in operation.inputs.items():
        if isinstance(argument, (list, tuple)):
            variables[name] = [part.name for part in argument]
        elif argument.name in constants or argument.val is not None:
            value = constants.get(argument.name, argument.val)
            # Widened once, here, not at each call.
            fixed[name] = _pooled(value if operation.op_type in _MOVES else _widen(value), pool)
        else:
            variables[name] = argument.name
    outputs = tuple((output.name, _numpy_dtype(output)) for output in operation.outputs)
    kind = operation.op_type
    return _Step(operation.name, kind, OPERATORS[kind], fixed, variables, outputs, last_use)


def _pooled(value: Any, pool: dict[str, Array]) -> Any:
    """The array of the pool that equals `value`; small and non-array values as they are."""
    if not isinstance(value, np.ndarray) or value.nbytes < _POOLED_BYTES:
        return value
    digest = hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()
    return pool.setdefault(f"{value.dtype} {value.shape} {digest}", value)


def _numpy_dtype(variable: Any) -> np.dtype[Any]:
    from coremltools.converters.mil.mil import types

    dtype: np.dtype[Any] = np.dtype(types.nptype_from_builtin(variable.dtype))
    return dtype


def _last_uses(operations: list[Any], keep: set[str]) -> dict[str, list[str]]:
    """Names of the values that each operator is the last to read; they can go then."""
    reader: dict[str, str] = {}
    for operation in operations:
        for argument in operation.inputs.values():
            for variable in argument if isinstance(argument, (list, tuple)) else [argument]:
                producer = "" if variable.op is None else variable.op.op_type
                if producer != "const" and producer not in CONSTANT_OPERATORS:
                    reader[variable.name] = operation.name
    uses: dict[str, list[str]] = {}
    for value, name in reader.items():
        if value not in keep:
            uses.setdefault(name, []).append(value)
    return uses
