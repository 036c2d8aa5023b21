"""CoreML bundles behind the `Runner` protocol, evaluated by our own interpreter.

Apple's kernels are not run: no CoreML runtime exists outside Apple's systems. What is evaluated is the program and
the weights inside the `.pte`, operator by operator in float16, which shows whether the export is right and nothing
about speed or about what a phone's engines do with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from typing_extensions import override

from helium_edge.errors import BundleError
from helium_edge.runtime.cache_memory import cache_buffers
from helium_edge.runtime.chunked_runner import ChunkedRunner
from helium_edge.runtime.chunks import DECODE, next_width
from helium_edge.runtime.coreml_program import CoremlMethod, TensorType, read_coreml
from helium_edge.runtime.mil_interpreter import MilFunction
from helium_edge.runtime.mil_ops import Array
from helium_edge.runtime.runner import Logits
from helium_edge.signature import (
    INPUT_IDS,
    LAST_INDEX,
    PAST_LENGTH,
    DecoderSpec,
    GraphSignature,
    Phase,
    TensorSpec,
    TextSignature,
)

_PHASES: tuple[Phase, ...] = ("prefill", "decode")


class CoremlRunner(ChunkedRunner):
    """Runs the methods `prefill` and `decode` of one `.pte`.

    Args:
        path: The `.pte`.
        spec: Cache, vocabulary and shapes of its methods.

    Attributes:
        evaluated_by: What computes the logits.
        caveat: The same as a sentence, for reports: it is not the runtime of phones.

    Raises:
        BundleError: The file cannot be read, or is not what `spec` says.
        MissingDependencyError: coremltools is not installed.
        ResourceError: Not enough memory for the cache.
    """

    evaluated_by = "MIL interpreter"
    caveat = "the CoreML program was evaluated by our MIL interpreter in float16; Apple's kernels were not run"

    def __init__(self, path: Path, spec: DecoderSpec) -> None:
        super().__init__(spec.vocab_size, spec.cache.cache_len, spec.logits)
        self._spec = spec
        methods = read_coreml(path)
        pool: dict[str, Array] = {}
        self._methods = {
            phase: InterpretedMethod(find_method(methods, phase, path), _signature(spec, phase), pool)
            for phase in _PHASES
        }
        self._buffers = cache_buffers(spec.cache)

    @property
    def cache_buffers(self) -> list[Array]:
        """Key and value of each layer in turn, (Hkv, S, D); owned by the runner."""
        return self._buffers

    @override
    def _width(self, remaining: int, room: int) -> int:
        return next_width([self._spec.prefill_len], remaining, room)

    @override
    def _run(self, width: int, tokens: Sequence[int]) -> Logits:
        phase: Phase = "decode" if width == DECODE else "prefill"
        outputs = self._methods[phase](self._inputs(phase, tokens))
        for buffer, rows in zip(self._buffers, outputs[1:], strict=True):
            buffer[:, self._position : self._position + len(tokens)] = rows[:, : len(tokens)]
        valid = len(tokens) if self._logits == "all" else 1
        logits: Logits = outputs[0][0, :valid]
        return logits

    def _inputs(self, phase: Phase, tokens: Sequence[int]) -> list[Array]:
        signature = _signature(self._spec, phase)
        width = int(signature.token_dim)
        # Slots past the real tokens hold a repeated id, whose results are unused.
        ids = [*tokens, *[tokens[-1]] * (width - len(tokens))]
        scalars = {INPUT_IDS: [ids], PAST_LENGTH: [self._position], LAST_INDEX: [len(tokens) - 1]}
        buffers = iter(self._buffers)
        return [
            np.array(scalars[spec.name], spec.dtype) if spec.name in scalars else next(buffers)
            for spec in signature.inputs()
        ]


class InterpretedMethod:
    """One method: the caller's inputs and outputs in order, the function's by name.

    Args:
        method: As read from the file.
        signature: Its inputs and outputs.
        pool: Large constants, shared among methods; see `MilFunction`.

    Raises:
        BundleError: The method is not that of the signature, or uses an unknown operator.
    """

    def __init__(
        self, method: CoremlMethod, signature: GraphSignature | TextSignature, pool: dict[str, Array]
    ) -> None:
        self._method = method
        _check_types(method.name, "inputs", method.inputs, signature.inputs())
        _check_types(method.name, "outputs", method.outputs, signature.outputs())
        self._function = MilFunction(method.function, pool)
        # CoreML knows no int64: ExecuTorch narrows inputs and widens outputs as it copies them.
        self._types = {name: _narrowed(method.inputs[index].dtype) for name, index in method.arguments}

    def __call__(self, given: Sequence[Array]) -> list[Array]:
        """Evaluate the method on inputs in the order of its signature.

        Raises:
            BundleError: An operator cannot be evaluated, or an output has another shape than the method says.
        """
        values = {
            name: given[index].astype(self._types[name], copy=False) for name, index in self._method.arguments
        }
        found = self._function(values)
        outputs: list[Array] = [np.empty(0)] * len(self._method.outputs)
        for name, index in self._method.results:
            kind = self._method.outputs[index]
            if found[name].shape != kind.shape:
                raise BundleError(
                    f"method {self._method.name}: CoreML returns {name} as {found[name].shape}, not {kind.shape}"
                )
            outputs[index] = found[name].astype(kind.dtype)
        return outputs


def _signature(spec: DecoderSpec, phase: Phase) -> GraphSignature:
    tokens = spec.prefill_len if phase == "prefill" else 1
    return GraphSignature(phase, tokens, spec.vocab_size, spec.cache, spec.logits, "int64")


def find_method(methods: dict[str, CoremlMethod], name: str, path: Path) -> CoremlMethod:
    """A method of a file by name.

    Raises:
        BundleError: There is none.
    """
    if name not in methods:
        raise BundleError(f"{path.name}: no CoreML method {name}; found {', '.join(sorted(methods)) or 'none'}")
    return methods[name]


def _check_types(method: str, side: str, found: Sequence[TensorType], expected: Sequence[TensorSpec]) -> None:
    wanted = [TensorType(spec.dtype, tuple(int(dim) for dim in spec.shape)) for spec in expected]
    if list(found) != wanted:
        pairs = zip([*found, *[None] * len(wanted)], wanted, strict=False)
        first = next((f"{have} where {want} belongs" for have, want in pairs if have != want), "too many")
        raise BundleError(f"CoreML method {method}: its {side} are not those of the manifest: {first}")


def _narrowed(dtype: str) -> str:
    return "int32" if dtype == "int64" else dtype
