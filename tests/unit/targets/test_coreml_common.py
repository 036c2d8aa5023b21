"""Operators of the CoreML decoder, written by our builder and evaluated by our interpreter."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

if importlib.util.find_spec("coremltools") is None:
    pytest.skip("coremltools is not installed", allow_module_level=True)

from helium_edge.model.decoder import ACTIVATIONS
from helium_edge.runtime.quiet import quiet

with quiet():
    from helium_edge.mlpackage.builder import FunctionBuilder
    from helium_edge.mlpackage.operators import concat, gather, slice_axis
    from helium_edge.mlpackage.weights_file import WeightsFile
    from helium_edge.targets.coreml.common import activation, rms_norm
    from tests.helpers.mil import load_function, spec, write_function

EPS = 1e-8


def evaluate(folder: Path, body: Any, x: np.ndarray[Any, Any], shape: tuple[int, ...], **others: Any) -> Any:
    """What a body makes of `x`, of that shape in float16; others are int32."""
    inputs = [spec("x", *x.shape)] + [spec(name, *np.shape(each), dtype="int64") for name, each in others.items()]
    with quiet():
        package = write_function(folder, inputs, [spec("y", *shape)], body)
        function = load_function(package, folder)
    return function({"x": x} | {name: np.asarray(each, np.int32) for name, each in others.items()})["y"]


def norm(folder: Path, x: torch.Tensor, eps: float = EPS, gain: torch.Tensor | None = None) -> torch.Tensor:
    gain = torch.ones(x.shape[1]) if gain is None else gain

    def body(b: FunctionBuilder, weights: WeightsFile) -> None:
        stored = weights.add([gain.half()], "float16", tuple(gain.shape))
        b.op("identity", tuple(x.shape), output="y", x=rms_norm(b, b.inputs["x"], stored, eps))

    return torch.from_numpy(evaluate(folder, body, x.half().numpy(), tuple(x.shape)))


def norm_error(folder: Path, x: torch.Tensor, eps: float = EPS) -> float:
    """Largest error of a row, relative to the row's largest value."""
    gain = torch.linspace(0.5, 1.5, x.shape[1])
    exact = x.half().double()
    exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps) * gain.half().double()
    found = norm(folder, x, eps, gain)
    assert found.dtype == torch.float16
    return float(((found - exact).abs().amax(-1) / exact.abs().amax(-1)).max())


@pytest.mark.parametrize("eps", [1e-8, 1e-6, 1e-5])
@pytest.mark.parametrize("magnitude", [3e-5, 1e-4, 1e-2, 1.0, 256.0, 2_000.0, 10_000.0])
def test_norm_at_every_magnitude(magnitude: float, eps: float, tmp_path: Path) -> None:
    """Squares overflow above 256, and at 1e-4 the released eps of 1e-8 is half of the result."""
    assert norm_error(tmp_path, torch.randn(16, 2560) * magnitude, eps) <= 4e-3


def test_norm_of_one_outlier(tmp_path: Path) -> None:
    """The mean is smallest, 1 / C, where all but one value vanish."""
    x = torch.zeros(2, 7040)
    x[0, 3], x[1] = 60_000.0, 1e-3
    x[1, 5] = 300.0
    assert norm_error(tmp_path, x) <= 4e-3


def test_norm_of_zeros_is_zero(tmp_path: Path) -> None:
    assert not norm(tmp_path, torch.zeros(2, 8)).any()


@pytest.mark.parametrize("hidden_act", ACTIVATIONS)
def test_activations(hidden_act: str, tmp_path: Path) -> None:
    """The two kinds of GELU differ by 1.3 % of the result at -2.2, where float16 tells 0.05 % apart."""
    x = np.linspace(-6, 6, 500).astype(np.float16)[None]

    def body(b: FunctionBuilder, _: WeightsFile) -> None:
        b.op("identity", x.shape, output="y", x=activation(b, b.inputs["x"], hidden_act))

    found = evaluate(tmp_path, body, x, x.shape)
    expected = ACTIVATIONS[hidden_act](torch.from_numpy(x).double()).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


X = np.random.default_rng(0).standard_normal((4, 6, 5)).astype(np.float16)


@pytest.mark.parametrize(("axis", "start", "stop"), [(0, 0, 4), (0, 1, 3), (1, 2, 6), (2, 0, 1), (2, 4, 5)])
def test_slices(axis: int, start: int, stop: int, tmp_path: Path) -> None:
    def body(b: FunctionBuilder, _: WeightsFile) -> None:
        slice_axis(b, b.inputs["x"], axis, start, stop, "y")

    expected = np.take(X, range(start, stop), axis)
    assert np.array_equal(evaluate(tmp_path, body, X, expected.shape), expected)


def test_joined_parts_lie_side_by_side(tmp_path: Path) -> None:
    def body(b: FunctionBuilder, _: WeightsFile) -> None:
        x = b.inputs["x"]
        parts = [slice_axis(b, x, 2, 3, 5), slice_axis(b, x, 2, 0, 2)]
        assert concat(b, parts[:1]) is parts[0]
        b.op("identity", (4, 6, 4), output="y", x=concat(b, parts))

    assert np.array_equal(evaluate(tmp_path, body, X, (4, 6, 4)), X[..., [3, 4, 0, 1]])


@pytest.mark.parametrize(("count", "type_"), [(1 << 16, "uint16"), ((1 << 16) + 1, "int32")])
def test_indices_are_short_where_they_fit(count: int, type_: str, tmp_path: Path) -> None:
    found = []

    def body(b: FunctionBuilder, _: WeightsFile) -> None:
        b.op("identity", (2, 5), output="y", x=gather(b, X[0], b.inputs["rows"], count))
        found.extend(operation for operation in b._block.operations if operation.type == "gather")

    assert np.array_equal(evaluate(tmp_path, body, X[0], (2, 5), rows=[4, 1]), X[0, [4, 1]])
    (name,) = [binding.name for binding in found[0].inputs["indices"].arguments]
    assert name == ("cast" if type_ == "uint16" else "rows")
