"""What a runtime rounds: the inputs of its quantized products, traced with the debug programs of the bundle.

A step is run again in pieces, over the cache that the runtime has written. The pieces are those of its own graphs
and the calls are those that it made, so that their values are the runtime's own to the last bit, and from them
follow the codes that its kernels took. One layer is in memory at a time.

Shape legend: R rows, K input channels, L layers, Hkv key-value heads, D head_dim.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from helium_edge.bundle import Bundle
from helium_edge.config import ModelConfig
from helium_edge.model.kv_cache import KvScales, Side
from helium_edge.parity.emulation import query_place
from helium_edge.parity.rollout import Step
from helium_edge.runtime.chunks import DECODE, next_width
from helium_edge.signature import Phase
from helium_edge.targets import load_target
from helium_edge.targets.debug import Array, DebugCall, DebugProgram

PRODUCTS = ("input_layernorm", "attention", "post_attention_layernorm", "activation")
"""Inputs of the products of a layer, in the order of the forward pass."""


@dataclass(eq=False)
class _Chain:
    """A call on its way through the layers.

    Attributes:
        program: What runs it.
        call: The call.
        wanted: Row in the result and row in the call, of each row that is asked for.
        values: What the next stage takes.
    """

    program: DebugProgram
    call: DebugCall
    wanted: list[tuple[int, int]]
    values: dict[str, Array]


class Tracer:
    """Traces steps of one runner.

    Args:
        load: Makes the debug programs; called when the first step is traced.
        config: The model.
        prefill_len: Tokens of a prefill call at most.
        cache_len: S.
        scales: Of an int8 cache; None where the cache is not quantized.

    Raises:
        BundleError: The graphs are not built as ours are, or their runtime stopped; from `inputs`.
    """

    def __init__(
        self,
        load: Callable[[], Iterable[DebugProgram]],
        config: ModelConfig,
        prefill_len: int,
        cache_len: int,
        scales: KvScales | None = None,
    ) -> None:
        self._load = load
        self._config = config
        self._prefill_len = prefill_len
        self._cache_len = cache_len
        self._scales = scales
        self._programs: Mapping[Phase, DebugProgram] | None = None

    def inputs(self, step: Step, rows: Sequence[int]) -> dict[int, Tensor]:
        """The inputs of every product at some rows of a step, (R, K) each, by the index of the product.

        Where the graph rounds queries, those as well, before they are, by `query_place`. NaN where the graph has
        no such row: the head of one that returns the last row only.
        """
        if self._programs is None:
            self._programs = {phase: program for program in self._load() for phase in program.phases}
        chains = list(self._chains(self._programs, step, rows))
        found: dict[int, Tensor] = {}
        for layer in range(self._config.num_hidden_layers):
            past = self._past(step, layer, "key"), self._past(step, layer, "value")
            for chain in chains:
                values = chain.program.layer(layer, chain.call, chain.values, past, cut=False)
                chain.values = {"residual": values["sum2"], "delta": values["down_proj"]}
                for number, name in enumerate(PRODUCTS, len(PRODUCTS) * layer):
                    _keep(found, number, len(rows), values[name], chain)
                if "query" in values:
                    _keep(found, query_place(layer), len(rows), values["query"], chain)
        for chain in chains:
            norm = chain.program.end(chain.call, chain.values, cut=False)["norm"]
            _keep(found, len(PRODUCTS) * self._config.num_hidden_layers, len(rows), norm, chain)
        return found

    def _chains(self, programs: Mapping[Phase, DebugProgram], step: Step, rows: Sequence[int]) -> Iterable[_Chain]:
        done = 0
        while done < len(step.tokens):
            phase, count = self._call(programs, step, done)
            wanted = [(index, row - done) for index, row in enumerate(rows) if done <= row < done + count]
            if wanted:
                tokens = np.asarray(step.tokens[done : done + count], np.int64)
                call = DebugCall(tokens, step.start + done)
                program = programs[phase]
                yield _Chain(program, call, wanted, {"residual": program.embedding(call)})
            done += count

    def _call(self, programs: Mapping[Phase, DebugProgram], step: Step, done: int) -> tuple[Phase, int]:
        """Phase and tokens of the runner's next call: what its `prefill` and `decode` do."""
        if step.phase != "prefill":
            return "decode", 1
        left, width = len(step.tokens) - done, programs["prefill"].width
        if width and next_width([width], left, self._cache_len - step.start - done) == DECODE:
            return "decode", 1
        return "prefill", min(self._prefill_len, left)

    def _past(self, step: Step, layer: int, side: Side) -> Array:
        """A buffer as real values, (Hkv, S, D)."""
        buffer = step.cache[2 * layer + (side == "value")]
        heads = buffer.reshape(self._config.num_key_value_heads, -1, self._config.head_dim)
        if self._scales is None:
            return heads
        real: Array = heads.astype(np.float32) * self._scales.side(layer, side)[:, None].numpy()
        return real


def _keep(found: dict[int, Tensor], number: int, rows: int, values: Array, chain: _Chain) -> None:
    if number not in found:
        found[number] = torch.full((rows, values.shape[-1]), torch.nan)
    only = len(chain.call.tokens) - 1 if len(values) == 1 else None
    for index, row in chain.wanted:
        if only is None or row == only:
            found[number][index] = torch.from_numpy(np.array(values[0 if only is not None else row], np.float32))


def open_tracer(bundle: Bundle, config: ModelConfig, scales: KvScales | None, *, static: bool) -> Tracer:
    """The tracer of a bundle; `static` as its runner was opened."""
    manifest = bundle.manifest
    programs = load_target(manifest.target.name)
    return Tracer(
        lambda: programs.debug(bundle, static=static), config, manifest.prefill_len, manifest.cache_len, scales
    )
