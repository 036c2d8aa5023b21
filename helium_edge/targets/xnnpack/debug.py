"""Debug programs of an XNNPACK bundle: stages cut out of the delegates of its own `.pte`."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from helium_edge.config import ModelConfig
from helium_edge.documents import first_line
from helium_edge.errors import BundleError
from helium_edge.model.kv_cache import SIDES, KvScales
from helium_edge.pte.file import PteFile
from helium_edge.pte.xnnpack_schema import XNNAdd
from helium_edge.runtime.executorch_library import load_runtime, open_program
from helium_edge.runtime.quiet import quiet
from helium_edge.signature import Phase
from helium_edge.targets.debug import (
    Array,
    DebugCall,
    DebugProgram,
    LoadedStages,
    Values,
    codes_of_rows,
    join_parts,
    rows_of_codes,
    split_parts,
)
from helium_edge.targets.xnnpack.anatomy import Anatomy, Delegate, dissect, inputs_of
from helium_edge.targets.xnnpack.cutting import METHOD, Piecework, write_prologue

Piece = tuple[dict[str, int], dict[str, int]]

PURPOSE = "localisation of an ExecuTorch bundle"

_HELD = 128
"""Calls whose prologue is kept while they go from layer to layer; no caller takes more through at once."""


class XnnpackDebug(DebugProgram):
    """One method of a `.pte`, on the delegate's own kernels.

    Args:
        path: The `.pte`.
        method: The method.
        config: The model.
        phase: Of the method.
        width: Its token slots.
        scales: Of an int8 cache; None where the cache is not quantized.
        dtype: Of a cache that is not quantized.

    Raises:
        BundleError: The file is not readable, or the method is not built as ours are.
        MissingDependencyError: executorch is not installed.
    """

    def __init__(
        self,
        path: Path,
        method: str,
        config: ModelConfig,
        phase: Phase,
        width: int,
        scales: KvScales | None = None,
        dtype: str = "float32",
    ) -> None:
        self.graph = method
        self.phases: tuple[Phase, ...] = (phase,)
        self.width: int | None = width
        self._tokens = width
        self._config = config
        self._scales = scales
        self._dtype = dtype
        self._anatomy = dissect(PteFile(path), method, config)
        self._delegate = self._anatomy.delegate
        load_runtime(PURPOSE)
        self._scalars = self._delegate.plan.inputs[: -2 * config.num_hidden_layers]
        self._pasts = self._delegate.plan.inputs[-2 * config.num_hidden_layers :]
        self._prologues: dict[tuple[tuple[int, ...], int], dict[int, Tensor]] = {}
        self._prologue: _Loaded | None = None
        self._stages: LoadedStages[_Loaded] = LoadedStages(config)

    @override
    def embedding(self, call: DebugCall) -> Array:
        argument = self._delegate.argument(self._anatomy.layers[0].norm1.total)
        computed = self._before(call)
        if argument is None or argument not in computed:
            raise BundleError(f"method {self.graph}: the first layer does not start from an embedding")
        return np.asarray(computed[argument].numpy())

    @override
    def layer(
        self, index: int, call: DebugCall, values: Values, past: tuple[Array, Array], *, cut: bool
    ) -> dict[str, Array]:
        layer = self._anatomy.layers[index]
        feeds = dict(values)
        if layer.up_first and "gate_up" in feeds:
            feeds["gate_up"] = _exchange(feeds["gate_up"])
        split_parts(feeds, "qkv", [product.rows for product in layer.qkv])
        split_parts(feeds, "gate_up", [product.rows for product in layer.gate_up])
        pieces = layer_pieces(self._anatomy, index)
        given = {
            buffer: torch.from_numpy(codes_of_rows(rows, self._scales, index, side, self._dtype))
            for side, buffer, rows in zip(SIDES, self._pasts[2 * index : 2 * index + 2], past, strict=True)
        }
        found = self._run(("layer", index, cut), pieces, call, feeds, given)
        for side in SIDES:
            found[side] = rows_of_codes(found[side], self._scales, index, side)
        found.setdefault("sum1", values["residual"])  # the first layer adds nothing
        join_parts(found, "qkv")
        join_parts(found, "gate_up")
        if layer.up_first:
            found["gate_up"] = _exchange(found["gate_up"])
        return found

    @override
    def end(self, call: DebugCall, values: Values, *, cut: bool) -> dict[str, Array]:
        anatomy, feeds = self._anatomy, dict(values)
        assert anatomy.head is not None  # only language models are cut
        pieces = [
            (_added(anatomy.delegate, anatomy.layers[-1].down.out), {"norm": anatomy.norm.out}),
            ({"norm": anatomy.head.x}, {"logits": anatomy.head.out}),
        ]
        if "norm" in feeds and self._delegate.tensor(anatomy.head.x).dims[0] == 1:
            last = len(call.tokens) - 1
            feeds["norm"] = feeds["norm"][last : last + 1]
        return self._run(("end", cut), pieces, call, feeds, {})

    def _run(
        self,
        key: tuple[object, ...],
        pieces: list[Piece],
        call: DebugCall,
        feeds: Values,
        given: Mapping[int, Tensor],
    ) -> dict[str, Array]:
        loaded = self._stages.get(key, lambda: self._load(pieces, cut=bool(key[-1])))
        known = {**self._before(call), **given}
        tensors = []
        for name in loaded.inputs:
            if name in loaded.arguments:
                argument = loaded.arguments[name]
                tensor = known.get(argument)
                constant = self._delegate.pte.constant(self._delegate.plan, argument) if tensor is None else tensor
                if constant is None:
                    raise BundleError(f"method {self.graph}: {key[0]} takes a value that is not known")
                tensors.append(constant)
            else:
                tensors.append(torch.from_numpy(np.ascontiguousarray(feeds[name], np.float32)))
        shaped = [tensor.reshape(dims) for tensor, dims in zip(tensors, loaded.dims, strict=True)]
        return dict(zip(loaded.outputs, loaded.run(shaped, f"{self.graph}, {key[0]}"), strict=True))

    def _load(self, pieces: list[Piece], *, cut: bool) -> _Loaded:
        work = Piecework(self._delegate)
        if not cut:
            pieces = [(pieces[0][0], {name: value for _, given in pieces for name, value in given.items()})]
        for inputs, outputs in pieces:
            work.piece(inputs, outputs)
        with tempfile.TemporaryDirectory(prefix="helium-edge-") as folder:
            path = Path(folder) / "piece.pte"
            work.write(path)
            method = _load_method(path, self.graph)
        names = list(work.inputs)
        return _Loaded(
            method, names, [work.dims(name) for name in names], dict(work.arguments), list(work.outputs)
        )

    def _before(self, call: DebugCall) -> dict[int, Tensor]:
        """What the method computes in front of its delegate: embedding, RoPE rows, masks; by value."""
        key = tuple(call.tokens.tolist()), call.past_length
        if key in self._prologues:
            return self._prologues[key]
        if len(self._prologues) >= _HELD:
            self._prologues.clear()
        wanted = self._computed()
        if self._prologue is None:
            with tempfile.TemporaryDirectory(prefix="helium-edge-") as folder:
                path = Path(folder) / "prologue.pte"
                write_prologue(self._delegate, wanted, list(self._scalars), path)
                self._prologue = _Loaded(_load_method(path, self.graph), [], [], {}, [])
        ids = torch.full((1, self._tokens), int(call.tokens[-1]))
        ids[0, : len(call.tokens)] = torch.from_numpy(call.tokens)
        scalars = [ids, torch.tensor([call.past_length]), torch.tensor([len(call.tokens) - 1])]
        results = self._prologue.run(scalars[: len(self._scalars)], f"{self.graph}, embedding")
        self._prologues[key] = {
            value: torch.from_numpy(array) for value, array in zip(wanted, results, strict=True)
        }
        return self._prologues[key]

    def _computed(self) -> list[int]:
        """Arguments of the delegate that operators compute."""
        results = {arguments[-1] for _, arguments in self._delegate.kernels()}
        return [value for value in self._delegate.arguments if value in results]


class _Loaded:
    """A method that is ready to run, with the names of what it takes and gives."""

    def __init__(
        self, method: Any, inputs: list[str], dims: list[list[int]], arguments: dict[str, int], outputs: list[str]
    ) -> None:
        self._method = method
        self.inputs = inputs
        self.dims = dims
        self.arguments = arguments
        self.outputs = outputs

    def run(self, tensors: list[Tensor], where: str) -> list[Array]:
        """Results in order, copied."""
        try:
            results = self._method.execute(tensors)
        except RuntimeError as error:
            raise BundleError(f"{where}: ExecuTorch stopped: {first_line(error)}") from error
        return [result.numpy() for result in results]


def _load_method(path: Path, where: str) -> Any:
    try:
        with quiet() as noise:
            return open_program(path, PURPOSE).load_method(METHOD)
    except RuntimeError as error:
        detail = noise.last_error() or first_line(error)
        raise BundleError(f"method {where}: ExecuTorch cannot load a piece of it: {detail}") from error


def layer_pieces(anatomy: Anatomy, index: int) -> list[Piece]:
    """The operations of a layer: where each starts and what it computes, in order."""
    delegate, layer = anatomy.delegate, anatomy.layers[index]
    first = {"residual": layer.norm1.total}
    if index:
        first = _added(delegate, anatomy.layers[index - 1].down.out)
    second = _added(delegate, layer.o.out)
    outputs = delegate.plan.outputs[1 + 2 * index : 3 + 2 * index]
    cache = {kind: delegate.value_of(output) for kind, output in zip(("key", "value"), outputs, strict=True)}
    qkv = {f"qkv.{part}": product.out for part, product in enumerate(layer.qkv)}
    gate_up = {f"gate_up.{part}": product.out for part, product in enumerate(layer.gate_up)}
    names = {"sum1": second["residual"], "o_proj": second["delta"]}
    start = {"sum1": layer.norm1.total} if index else {}
    return [
        (first, {"input_layernorm": layer.norm1.out} | start),
        ({"input_layernorm": layer.qkv[0].x}, qkv),
        (qkv, {"attention": layer.o.x} | cache),
        ({"attention": layer.o.x}, {"o_proj": layer.o.out}),
        (names, {"post_attention_layernorm": layer.norm2.out, "sum2": layer.norm2.total}),
        ({"post_attention_layernorm": layer.gate_up[0].x}, gate_up),
        (gate_up, {"activation": layer.down.x}),
        ({"activation": layer.down.x}, {"down_proj": layer.down.out}),
    ]


def _added(delegate: Delegate, delta: int) -> dict[str, int]:
    """The residual and what is added to it, where a product's result goes."""
    for node in delegate.users.get(delta, []):
        if isinstance(node, XNNAdd):
            (other,) = [value for value in inputs_of(node) if value != delta]
            return {"residual": other, "delta": delta}
    raise BundleError(f"method {delegate.method}: a product that is not added to the residual")


def _exchange(values: Array) -> Array:
    first, second = np.split(values, 2, axis=-1)
    return np.concatenate([second, first], axis=-1)
