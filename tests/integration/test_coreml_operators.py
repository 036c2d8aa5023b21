"""The interpreter's operators compute what coremltools says they mean, on the same inputs."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("coremltools") is None:
    pytest.skip("coremltools is not installed", allow_module_level=True)

from helium_edge.errors import BundleError
from helium_edge.runtime.mil_interpreter import MilFunction
from helium_edge.runtime.mil_ops import OPERATORS
from helium_edge.runtime.quiet import quiet

with quiet():
    from coremltools import target
    from coremltools.converters.mil.mil import Builder as mb  # noqa: N813 - as its users write it
    from coremltools.converters.mil.mil import Program, types


def draw(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


X = draw(3, 4, 6)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "abs": ("abs", {"x": X}),
    "add": ("add", {"x": X, "y": draw(4, 1, seed=1)}),
    "cast": ("cast", {"x": np.round(X), "dtype": "int32"}),
    "concat": ("concat", {"values": [X, draw(3, 1, 6, seed=2)], "axis": -2}),
    "equal": ("equal", {"x": np.round(X), "y": np.float32(1)}),
    "expand_dims": ("expand_dims", {"x": X, "axes": [0, -1]}),
    "gather": ("gather", {"x": X, "indices": np.array([3, 0, 0]), "axis": 1}),
    "gelu exact": ("gelu", {"x": 2 * X, "mode": "EXACT"}),
    "gelu tanh": ("gelu", {"x": 2 * X, "mode": "TANH_APPROXIMATION"}),
    "greater_equal": ("greater_equal", {"x": X, "y": 0.1}),
    "identity": ("identity", {"x": X}),
    "less": ("less", {"x": X, "y": draw(6, seed=3)}),
    "linear": ("linear", {"x": X[0], "weight": draw(5, 6, seed=4)}),
    "linear, bias": ("linear", {"x": X[0], "weight": draw(5, 6, seed=4), "bias": draw(5, seed=5)}),
    "matmul": ("matmul", {"x": X, "y": draw(3, 6, 2, seed=6)}),
    "matmul, transposed": ("matmul", {"x": X, "y": draw(3, 4, 2, seed=6), "transpose_x": True}),
    "matmul, both": ("matmul", {"x": X, "y": draw(3, 2, 4, seed=6), "transpose_x": True, "transpose_y": True}),
    "maximum": ("maximum", {"x": X, "y": draw(4, 6, seed=7)}),
    "mul": ("mul", {"x": X, "y": draw(3, 1, 6, seed=8)}),
    "not_equal": ("not_equal", {"x": np.round(X), "y": np.round(draw(4, 6, seed=10))}),
    "reduce_max": ("reduce_max", {"x": X, "axes": [-1], "keep_dims": True}),
    "reduce_mean": ("reduce_mean", {"x": X, "axes": [0, 2], "keep_dims": False}),
    "relu": ("relu", {"x": X}),
    "reshape": ("reshape", {"x": X, "shape": [6, -1, 2]}),
    "rsqrt": ("rsqrt", {"x": np.abs(X), "epsilon": 1e-3}),
    "select": ("select", {"cond": X > 0, "a": X, "b": 2 * X}),
    "slice": ("slice_by_index", {"x": X, "begin": [0, 1, -4], "end": [3, 3, -1]}),
    "slice, masks": (
        "slice_by_index",
        {"x": X, "begin": [1, 1, 2], "end": [2, 2, 3], "begin_mask": [True, False, False],
         "end_mask": [False, True, True], "stride": [1, 2, 1]},
    ),
    "slice, squeezed": (
        "slice_by_index", {"x": X, "begin": [0, 2, 1], "end": [0, 4, 0], "squeeze_mask": [True, False, True]}
    ),
    "softmax": ("softmax", {"x": 5 * X, "axis": -2}),
    "split, equal": ("split", {"x": X, "num_splits": 3, "axis": 2}),
    "split, sizes": ("split", {"x": X, "split_sizes": [1, 5], "axis": -1}),
    "sub": ("sub", {"x": X, "y": draw(1, seed=9)}),
    "transpose": ("transpose", {"x": X, "perm": [2, 0, 1]}),
}  # fmt: skip


def test_every_operator_has_a_case() -> None:
    """coremltools has no value inference for silu."""
    assert {operator for operator, _ in CASES.values()} | {"silu"} == set(OPERATORS)


def test_silu() -> None:
    np.testing.assert_allclose(OPERATORS["silu"]({"x": 3 * X}), 3 * X / (1 + np.exp(-3 * X)), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("value", [40_000, -1])
def test_a_cast_that_changes_an_index_is_refused(value: int) -> None:
    """coremltools narrows indices to 16 bits where it finds that they fit."""
    target = "int16" if value > 0 else "uint16"
    with pytest.raises(ValueError, match="changes"):
        OPERATORS["cast"]({"x": np.array([value], np.int32), "dtype": target})


@pytest.mark.parametrize("index", [-1, 3])
def test_a_row_outside_the_table_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="3 rows"):
        OPERATORS["gather"]({"x": X, "indices": np.array([index]), "axis": 0, "batch_dims": 0})


def program(inputs: list[Any], body: Any) -> Program:
    """A program of one function, `main`, for iOS 18."""
    with quiet():
        result: Program = mb.program(input_specs=inputs, opset_version=target.iOS18)(body)
    return result


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_coremltools(case: str) -> None:
    """coremltools evaluates an operator itself where all of its inputs are constants."""
    operator, arguments = CASES[case]
    expected: list[Any] = []

    def body(unused: Any) -> Any:
        results = getattr(mb, operator)(**arguments)
        results = list(results) if isinstance(results, (list, tuple)) else [results]
        expected.extend(result.val for result in results)
        assert all(value is not None for value in expected)
        return mb.identity(x=unused)

    program([mb.TensorSpec((1,))], body)
    defaults = {"linear": {}, "matmul": {"transpose_x": False, "transpose_y": False}}.get(operator, {})
    found = OPERATORS[operator](defaults | arguments)
    found = found if isinstance(found, list) else [found]
    assert len(found) == len(expected)
    for have, want in zip(found, expected, strict=True):
        assert np.shape(have) == np.shape(want)
        np.testing.assert_allclose(have, want, rtol=2e-6, atol=2e-6)


def test_results_are_rounded_to_the_declared_type() -> None:
    """2048 + 1 is 2048 in float16; summed in float32 over three operators it would be 2050."""

    def body(x: Any) -> Any:
        return mb.add(x=mb.add(x=x, y=np.float16(1)), y=np.float16(1))

    function = program([mb.TensorSpec((1,), dtype=types.fp16)], body).functions["main"]
    evaluate = MilFunction(function)
    (result,) = evaluate({evaluate.inputs[0]: np.array([2048], np.float16)}).values()
    assert result.dtype == np.float16
    assert result[0] == 2048


def test_infinities_come_out_as_they_would() -> None:
    def body(x: Any) -> Any:
        return mb.mul(x=x, y=x)

    evaluate = MilFunction(program([mb.TensorSpec((1,), dtype=types.fp16)], body).functions["main"])
    (result,) = evaluate({evaluate.inputs[0]: np.array([300], np.float16)}).values()
    assert np.isinf(result[0])


def test_an_unknown_operator_is_named() -> None:
    def body(x: Any) -> Any:
        return mb.erf(x=x)

    with pytest.raises(BundleError, match="erf"):
        MilFunction(program([mb.TensorSpec((1,))], body).functions["main"])


@pytest.mark.parametrize("with_offset", [False, True])
def test_quantized_constants_are_those_of_coremltools(with_offset: bool) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-8, 8, (4, 6)).astype(np.int8)
    scales = (np.abs(draw(4, 3)) + 0.1).astype(np.float16)
    points = {"offset": rng.integers(-8, 8, (4, 3)).astype(np.int8)} if with_offset else {}
    expected: list[Any] = []

    def body(x: Any) -> Any:
        weight = mb.constexpr_blockwise_shift_scale(data=codes, scale=scales, **points)
        expected.append(weight.op.materialized_val_inference())
        return mb.linear(x=x, weight=weight)

    evaluate = MilFunction(program([mb.TensorSpec((6, 6), dtype=types.fp16)], body).functions["main"])
    (found,) = evaluate({evaluate.inputs[0]: np.eye(6, dtype=np.float16)}).values()
    assert np.array_equal(found.T, expected[0])


def test_per_channel_constants_are_those_of_coremltools() -> None:
    codes = np.random.default_rng(0).integers(-127, 128, (4, 6)).astype(np.int8)
    scales = (np.abs(draw(4)) + 0.1).astype(np.float16)
    points = np.array([0, 3, -4, 0], np.int8)
    expected: list[Any] = []

    def body(x: Any) -> Any:
        weight = mb.constexpr_affine_dequantize(
            quantized_data=codes, scale=scales, zero_point=points, axis=np.int32(0)
        )
        expected.append(weight.op.materialized_val_inference())
        return mb.linear(x=x, weight=weight)

    evaluate = MilFunction(program([mb.TensorSpec((6, 6), dtype=types.fp16)], body).functions["main"])
    (found,) = evaluate({evaluate.inputs[0]: np.eye(6, dtype=np.float16)}).values()
    assert np.array_equal(found.T, expected[0])
