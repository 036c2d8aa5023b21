"""ONNX Runtime behind the `Runner` protocol: static buffers, cache in place, no copy that grows with the context.

Buffers are numpy arrays that live as long as the runner; OrtValues share their memory. With `in_place` graphs the
past and the present of each layer are bound to the same array, so a step moves no cache at all; with `append`
graphs the new rows, and only they, are copied to their slots.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from typing_extensions import override

from helium_edge.documents import first_line
from helium_edge.errors import BundleError
from helium_edge.runtime.cache_memory import cache_buffers
from helium_edge.runtime.chunked_runner import ChunkedRunner
from helium_edge.runtime.chunks import DECODE, next_width
from helium_edge.runtime.mapped_pages import release_clean_pages
from helium_edge.runtime.runner import Logits
from helium_edge.signature import (
    DecoderSpec,
    GraphSignature,
    Phase,
    TensorSpec,
)

Array = npt.NDArray[Any]


class OnnxRunner(ChunkedRunner):
    """Runs the decoder graphs of one folder.

    Args:
        folder: Where the graphs and their weights lie.
        graphs: File name by phase: `any`, or `prefill` and `decode`.
        spec: Cache, vocabulary and shapes of the graphs.
        threads: Threads within an operator; 0 lets ONNX Runtime choose.
        static: Use the static pair even where an `any` graph exists. The pair packs its weights twice; one
            session over the `any` graph packs them once, so that is the default.
        session_config: Extra ONNX Runtime session entries, by key.
        models: Bytes of a graph by phase, to load in place of its file.

    Raises:
        BundleError: A graph cannot be loaded.
        ResourceError: Not enough memory for the cache.
    """

    _kept_width = 1
    """Up to this width the arrays of a call are kept for the next one."""

    def __init__(
        self,
        folder: Path,
        graphs: Mapping[str, str],
        spec: DecoderSpec,
        *,
        threads: int = 0,
        static: bool = False,
        session_config: Mapping[str, str] | None = None,
        models: Mapping[Phase, bytes] | None = None,
    ) -> None:
        cache = spec.cache
        super().__init__(spec.vocab_size, cache.cache_len, spec.logits)
        self._cache = cache
        self._prefill_len = spec.prefill_len
        self._buffers = cache_buffers(cache)
        self._values = [ort.OrtValue.ortvalue_from_numpy(buffer) for buffer in self._buffers]
        options = _session_options(threads, session_config or {})
        self._dynamic = not static and "any" in graphs
        phases: tuple[Phase, ...] = ("any",) if self._dynamic else ("prefill", "decode")
        self._sessions = {
            phase: _load(folder, graphs, phase, options, (models or {}).get(phase)) for phase in phases
        }
        release_clean_pages(folder)
        self._steps: dict[tuple[Phase, int, int], _Step] = {}

    @property
    def cache_buffers(self) -> list[Array]:
        """Key and value of each layer in turn, shaped as the graphs take them; owned by the runner."""
        return self._buffers

    @override
    def _width(self, remaining: int, room: int) -> int:
        if self._dynamic:
            return min(remaining, self._prefill_len)
        return next_width([self._prefill_len], remaining, room)

    @override
    def _run(self, width: int, tokens: Sequence[int]) -> Logits:
        step = self._step(self._phase(width), width)
        self._call(step, tokens)
        valid = len(tokens) if self._logits == "all" else 1
        return step.logits[0, :valid].copy()

    def _phase(self, width: int) -> Phase:
        if self._dynamic:
            return "any"
        return "decode" if width == DECODE else "prefill"

    def _step(self, phase: Phase, width: int, rows: int = 1) -> _Step:
        """The arrays of calls of one width that ask for so many rows, where the graph does not return all."""
        step = self._steps.get((phase, width, rows))
        if step is None:
            step = _Step(self._sessions[phase], self._signature(phase, width), self._values, rows)
            # A ragged tail has one of many widths: only those that recur are worth keeping.
            if width == self._prefill_len or width <= self._kept_width:
                self._steps[phase, width, rows] = step
        return step

    def _call(self, step: _Step, tokens: Sequence[int]) -> None:
        """Run a call and take the rows of its tokens into the cache."""
        step.set_inputs(tokens, self._position)
        step.run()
        for buffer, rows in zip(self._buffers, step.new_rows, strict=False):
            slots = slice(self._position, self._position + len(tokens))
            buffer.reshape(self._cache.shape[-3:])[:, slots] = rows[:, : len(tokens)]

    def _signature(self, phase: Phase, width: int) -> GraphSignature:
        return GraphSignature(phase, width, self.vocab_size, self._cache, self._logits)


class _Step:
    """One width of one session: its input and output arrays, bound once and reused by every call."""

    def __init__(
        self, session: ort.InferenceSession, signature: GraphSignature, cache: list[Any], rows: int = 1
    ) -> None:
        self._rows = rows
        self._session = session
        self._binding = session.io_binding()
        self._inputs = {}
        past = iter(cache)
        for spec in signature.inputs():
            if spec.role in ("past_key", "past_value"):
                self._binding.bind_ortvalue_input(spec.name, next(past))
            else:
                self._inputs[spec.role] = self._bind_input(spec)
        present = iter(cache)
        self.new_rows: list[Array] = []
        for spec in signature.outputs():
            if spec.role in ("present_key", "present_value"):
                self._binding.bind_ortvalue_output(spec.name, next(present))
            elif spec.role == "logits":
                self.logits = self._bind_output(spec)
            else:
                self.new_rows.append(self._bind_output(spec))

    def _bind_input(self, spec: TensorSpec) -> Array:
        array = np.zeros(self._shape(spec), spec.dtype)
        self._binding.bind_ortvalue_input(spec.name, ort.OrtValue.ortvalue_from_numpy(array))
        return array

    def _bind_output(self, spec: TensorSpec) -> Array:
        array = np.zeros(self._shape(spec), spec.dtype)
        self._binding.bind_ortvalue_output(spec.name, ort.OrtValue.ortvalue_from_numpy(array))
        return array

    def _shape(self, spec: TensorSpec) -> list[int]:
        """The shape; of the index and the logits by how many rows are asked for."""
        shape = [int(dim) for dim in spec.shape]
        if self._rows > 1 and spec.role in ("last_index", "logits"):
            shape[-2 if spec.role == "logits" else 0] = self._rows
        return shape

    def set_inputs(self, tokens: Sequence[int], position: int) -> None:
        """Fill the input arrays; token slots past the real ones hold a repeated id, whose results are unused."""
        ids = self._inputs["tokens"]
        ids[0, : len(tokens)] = tokens
        ids[0, len(tokens) :] = tokens[-1]
        self._inputs["past_length"][0] = position
        if "last_index" in self._inputs:
            self._inputs["last_index"][:] = range(len(tokens) - self._rows, len(tokens))

    def run(self) -> None:
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # the binding layer raises several unrelated types
            raise BundleError(f"ONNX Runtime stopped: {first_line(error)}") from error


def load_session(folder: Path, graphs: Mapping[str, str], phase: str, threads: int) -> ort.InferenceSession:
    """Load the graph of a phase.

    Raises:
        BundleError: There is none, or it cannot be loaded.
    """
    return _load(folder, graphs, phase, _session_options(threads, {}))


def _session_options(threads: int, config: Mapping[str, str]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    return options


def _load(
    folder: Path, graphs: Mapping[str, str], phase: str, options: ort.SessionOptions, model: bytes | None = None
) -> ort.InferenceSession:
    if phase not in graphs:
        raise BundleError(f"{folder.name}: the bundle has no {phase} graph; it has {', '.join(sorted(graphs))}")
    path = folder / graphs[phase]
    try:
        return ort.InferenceSession(model or str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the binding layer raises several unrelated types
        raise BundleError(
            f"{path.name}: ONNX Runtime {ort.__version__} cannot load the graph: {first_line(error)}",
            hint="`helium-edge verify` tells whether the file is damaged",
        ) from error
