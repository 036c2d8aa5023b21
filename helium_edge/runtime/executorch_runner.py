"""ExecuTorch behind the `Runner` protocol: the methods of one `.pte`, one cache, copied as it grows and no more.

Methods read the cache where it lies and return the new rows, and only they are copied to their slots. A program
may hold several decode methods with shorter caches: the runner takes the shortest that fits, with buffers of its
own that follow the full cache row by row, and moves on when the conversation grows. It may hold prefill methods
for fewer tokens as well, which `next_width` chooses from, and each of them with shorter caches, too.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from typing_extensions import override

from helium_edge.documents import first_line
from helium_edge.errors import BundleError, UsageError
from helium_edge.runtime.cache_memory import cache_buffers
from helium_edge.runtime.chunked_runner import ChunkedRunner
from helium_edge.runtime.chunks import DECODE, next_width
from helium_edge.runtime.executorch_library import load_runtime, open_program
from helium_edge.runtime.executorch_options import set_weight_cache
from helium_edge.runtime.quiet import quiet
from helium_edge.runtime.runner import Logits
from helium_edge.signature import DecoderSpec, GraphSignature, Phase, TextSignature

Array = npt.NDArray[Any]

_SCALAR_TYPES = {"int8": 1, "int64": 4, "float16": 5, "float32": 6}
"""ExecuTorch's ScalarType by dtype."""

_live: weakref.WeakSet[object] = weakref.WeakSet()
_loading = threading.Lock()


class ExecutorchRunner(ChunkedRunner):
    """Runs the decoder methods of one program.

    Args:
        path: The `.pte`.
        spec: Cache, vocabulary and shapes of the methods; the cache is that of `prefill`, the longest.
        decode: Name of the decode method by the length of its cache; one of them has the full cache.
        prefill: Name of the prefill method by its tokens; by default `prefill`, of the spec's.
        shorter: Names of further prefill methods by their tokens and the length of their cache.
        threads: Threads of the process's pool, which all programs share; 0 leaves it as it is.

    Raises:
        BundleError: The program cannot be loaded, or its methods are not those of the spec.
        MissingDependencyError: executorch is not installed.
        ResourceError: Not enough memory for the cache.
        UsageError: Another number of threads while another runner is alive.
    """

    def __init__(
        self,
        path: Path,
        spec: DecoderSpec,
        decode: Mapping[int, str],
        *,
        prefill: Mapping[int, str] | None = None,
        shorter: Mapping[tuple[int, int], str] | None = None,
        threads: int = 0,
    ) -> None:
        cache = spec.cache
        super().__init__(spec.vocab_size, cache.cache_len, spec.logits)
        self._spec = spec
        self._synced = 0
        self._bucket: _Buffers | None = None
        if cache.cache_len not in decode:
            raise BundleError(f"{path.name}: no decode method for the full cache of {cache.cache_len} slots")
        self._full = _Buffers(spec, cache.cache_len)
        prefill = prefill or {spec.prefill_len: "prefill"}
        # A prefill of one token is a decode step.
        self._widths = sorted(width for width in prefill if width != DECODE)
        named = {(width, cache.cache_len): prefill[width] for width in self._widths}
        named |= {(DECODE, slots): name for slots, name in decode.items()}
        named |= {key: name for key, name in (shorter or {}).items() if key[0] != DECODE}
        methods = load_methods(path, list(named.values()), threads, self)
        found: dict[int, dict[int, _Method]] = {}
        for (width, slots), name in named.items():
            signature = _signature(spec, "decode" if width == DECODE else "prefill", width, slots)
            found.setdefault(width, {})[slots] = _Method(methods[name], signature)
        self._methods = {width: dict(sorted(by_slots.items())) for width, by_slots in found.items()}

    @property
    def cache_buffers(self) -> list[Array]:
        """Key and value of each layer in turn, (Hkv, S, D); owned by the runner."""
        return self._full.arrays

    @override
    def seek(self, position: int) -> None:
        super().seek(position)
        self._synced = min(self._synced, position)

    @override
    def _width(self, remaining: int, room: int) -> int:
        return next_width(self._widths, remaining, room)

    @override
    def _run(self, width: int, tokens: Sequence[int]) -> Logits:
        slots = next(slots for slots in self._methods[width] if slots >= self._position + width)
        logits, new = self._methods[width][slots](tokens, self._position, self._cache_of(slots, width))
        for buffer, rows in zip(self._full.arrays, new, strict=True):
            buffer[:, self._position : self._position + len(tokens)] = rows[:, : len(tokens)]
        valid = len(tokens) if self._logits == "all" else 1
        return logits[0, :valid]

    def _cache_of(self, slots: int, width: int) -> _Buffers:
        """Buffers of the methods with that cache, holding all tokens so far."""
        if slots == self.cache_len:
            if width == DECODE:
                self._bucket = None  # memory is worth more than a copy, should the conversation start anew
            return self._full
        if self._bucket is None or self._bucket.slots != slots:
            self._bucket = None  # before there are others
            self._bucket = _Buffers(self._spec, slots)
            self._synced = 0
        missing = slice(self._synced, self._position)
        for to, source in zip(self._bucket.arrays, self._full.arrays, strict=True):
            to[:, missing] = source[:, missing]
        self._synced = self._position
        return self._bucket


class _Buffers:
    """Key and value of each layer, as numpy and as torch over the same memory."""

    def __init__(self, spec: DecoderSpec, slots: int) -> None:
        self.slots = slots
        self.arrays: list[Array] = cache_buffers(spec.cache, slots)
        self.tensors = [torch.from_numpy(array) for array in self.arrays]


class _Method:
    """One loaded method with its small inputs."""

    def __init__(self, method: Any, signature: GraphSignature) -> None:
        check_shapes(method.metadata, signature)
        self._method = method
        self._scalars = {
            spec.role: torch.zeros([int(dim) for dim in spec.shape], dtype=torch.int64)
            for spec in signature.inputs()
            if spec.role in ("tokens", "past_length", "last_index")
        }

    def __call__(self, tokens: Sequence[int], position: int, cache: _Buffers) -> tuple[Array, list[Array]]:
        """Logits and new rows."""
        ids = self._scalars["tokens"]
        ids[0, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        ids[0, len(tokens) :] = tokens[-1]  # any valid id; what it gives is unused
        self._scalars["past_length"][0] = position
        if "last_index" in self._scalars:
            self._scalars["last_index"][0] = len(tokens) - 1
        try:
            outputs = self._method.execute([*self._scalars.values(), *cache.tensors])
        except RuntimeError as error:
            raise BundleError(f"ExecuTorch stopped: {first_line(error)}") from error
        arrays = [output.numpy() for output in outputs]
        return arrays[0], arrays[1:]


def check_shapes(meta: Any, signature: GraphSignature | TextSignature) -> None:
    """Compare a method with its signature: a wrong buffer would be read past its end.

    Raises:
        BundleError: Other inputs or outputs.
    """
    sides = (
        ("inputs", meta.num_inputs(), meta.input_tensor_meta, signature.inputs()),
        ("outputs", meta.num_outputs(), meta.output_tensor_meta, signature.outputs()),
    )
    for side, count, tensor, specs in sides:
        if count != len(specs):
            raise BundleError(f"method {meta.name()}: {count} {side}, the manifest says {len(specs)}")
        for index, spec in enumerate(specs):
            found = tensor(index)
            if tuple(found.sizes()) != spec.shape or found.dtype() != _SCALAR_TYPES[spec.dtype]:
                raise BundleError(
                    f"method {meta.name()}: {side[:-1]} {index} is {tuple(found.sizes())} of type "
                    f"{found.dtype()}, the manifest says {spec.name} {spec.shape} {spec.dtype}"
                )


def _signature(spec: DecoderSpec, phase: Phase, tokens: int, slots: int) -> GraphSignature:
    cache = dataclasses.replace(spec.cache, cache_len=slots)
    return GraphSignature(phase, tokens, spec.vocab_size, cache, spec.logits, "int64")


def load_methods(path: Path, names: Sequence[str], threads: int, runner: object) -> dict[str, Any]:
    """Load methods of a program.

    Only the first of several living runners shares packed weights among its methods: files of earlier versions
    name a weight by its codes alone, and the backend's cache would hand one program the scales of another.
    """
    purpose = "running an ExecuTorch bundle"
    runtime = load_runtime(purpose)
    with _loading:
        _set_threads(runtime, threads)
        shared = not len(_live) and set_weight_cache(enabled=True)
        try:
            with quiet() as noise:
                program = open_program(path, purpose)
                known = program.method_names
                methods = {name: program.load_method(name) for name in names if name in known}
        except (RuntimeError, UnicodeDecodeError) as error:  # the latter of a method's name
            detail = noise.last_error() or first_line(error)
            raise BundleError(
                f"{path.name}: ExecuTorch cannot load the program: {detail}",
                hint="`helium-edge verify` tells whether the file is damaged",
            ) from error
        finally:
            if shared:
                set_weight_cache(enabled=False)
        missing = [name for name in names if name not in methods]
        if missing:
            raise BundleError(f"{path.name}: no method {missing[0]}; it has {', '.join(sorted(known))}")
        _live.add(runner)
    return methods


def _set_threads(runtime: Any, threads: int) -> None:
    """Resize the pool of the process; programs that are already loaded keep a pointer to the old one.

    Raises:
        UsageError: There are such programs, and the size is another.
    """
    with quiet():
        if threads == 0 or runtime._threadpool_get_thread_count() == threads:
            return
        if len(_live):
            raise UsageError(
                f"{threads} threads: ExecuTorch has one thread pool in a process, and another runner uses it with "
                f"{runtime._threadpool_get_thread_count()}"
            )
        runtime._unsafe_reset_threadpool(threads)
