"""Localisation: which operation of which layer is wrong, by running a bundle's own graphs in pieces.

Every operation is fed with what the yardstick feeds it (its own error), and beside it the graphs run as they are
(the accumulated error). The conversation is a prompt of two chunks and a few decode steps: cache, positions and
masks are in use, and slots that must not be read hold numbers.

Shape legend: T tokens of a call, S cache slots, Hkv key-value heads, D head_dim, C hidden_size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from helium_edge.bundle import Bundle
from helium_edge.bundle.kv_scales import read_kv_scales
from helium_edge.config import ModelConfig
from helium_edge.errors import UsageError
from helium_edge.model.kv_cache import SIDES, KvScales, beyond_half_rounding, beyond_rounding
from helium_edge.model.parts import Parts
from helium_edge.model.weights import HEAD, layer_name
from helium_edge.parity.emulation import EmulatedParts, Ledger
from helium_edge.parity.layer_reference import CallState, LayerReference, padded
from helium_edge.parity.layer_table import FLIPPED_CODES, TOLERANCE, LayerRow, LayerTable, OpError, op_error
from helium_edge.progress import SILENT, Progress
from helium_edge.quant import WeightStore
from helium_edge.quant.activations import Arithmetic
from helium_edge.signature import Phase
from helium_edge.targets import load_target
from helium_edge.targets.debug import Array, DebugCall, DebugProgram

CHUNK, STEPS = 12, 3
"""Most tokens of a chunk, and decode steps."""


def localise(
    bundle: Bundle,
    store: WeightStore,
    tokens: Sequence[int],
    *,
    static: bool = False,
    arithmetic: Arithmetic | None = None,
    parts: Parts | None = None,
    progress: Progress = SILENT,
) -> LayerTable:
    """Compare a bundle with the yardstick, operation by operation; memory is bounded by a layer.

    Args:
        bundle: The bundle.
        store: Its quantized weights.
        tokens: A text of some dozen tokens; more are not used.
        static: Run the graphs of static shape even where one graph serves both phases.
        arithmetic: How the yardstick rounds activations; by default as the kernels of the bundle do here.
        parts: The yardstick's modules, asked for in the order of the forward pass; by default those of the store
            with activations rounded by `arithmetic`.
        progress: Receives a stage, advanced by the embedding, each layer and the end.

    Raises:
        BundleError: The graphs are not built as ours are, or their runtime stopped.
        UsageError: Too few tokens, or bundles of this target cannot be cut.
        HeliumEdgeError: Whatever the store raises.
    """
    manifest, config = bundle.manifest, store.config
    target = manifest.target.name
    if arithmetic is None:
        arithmetic = load_target(target).arithmetic(manifest.quantization.to_recipe(), store.plan)
    programs = {phase: p for p in load_target(target).debug(bundle, static=static) for phase in p.phases}
    widths = {phase: program.width for phase, program in programs.items()}
    calls = plan_calls(tokens, widths["prefill"], manifest.cache_len)
    scales = read_kv_scales(bundle)
    modules = parts or EmulatedParts(store, arithmetic, Ledger(), scales)
    reference = LayerReference(config, modules, [call.call for call in calls], manifest.cache_len)
    run = _Run(config, arithmetic, programs, calls, manifest.cache_len, scales)
    progress.stage("localise", config.num_hidden_layers + 2, "parts")
    run.embedding(reference.states)
    progress.advance(note="embedding")
    for index in range(config.num_hidden_layers):
        run.layer(index, reference.next_layer())
        progress.advance(note=f"layer {index}")
    run.end(reference.end())
    progress.advance(note="logits")
    rows = sorted(run.rows, key=lambda row: row.phase != "prefill")
    return LayerTable(tuple(rows), arithmetic.name, arithmetic.exact)


@dataclass(frozen=True, eq=False)
class PlannedCall:
    """A call of the conversation, and whether its results are looked at: those of the first chunk are not."""

    phase: Phase
    call: DebugCall
    shown: bool


def plan_calls(tokens: Sequence[int], width: int | None, cache_len: int) -> list[PlannedCall]:
    """Two chunks and a few decode steps.

    Args:
        tokens: The text.
        width: Token slots of a prefill call, None when any number goes.
        cache_len: Slots of the cache.

    Raises:
        UsageError: Too few tokens.
    """
    chunk = min(CHUNK, width or CHUNK, (len(tokens) - STEPS) // 2, cache_len // 3)
    if chunk < 1:
        raise UsageError(f"{len(tokens)} tokens are too few to localise with; {2 + STEPS} are needed")
    first = max(1, min(2 * chunk // 3, cache_len - (width or chunk)))
    # A ragged tail, where the graph has a place for it.
    second = max(1, chunk - 1)
    steps = min(STEPS, cache_len - first - second)
    ids = np.asarray(tokens, np.int64)
    sizes = [first, second, *[1] * steps]
    calls, done = [], 0
    for number, size in enumerate(sizes):
        phase: Phase = "prefill" if number < 2 else "decode"
        calls.append(PlannedCall(phase, DebugCall(ids[done : done + size], done), number > 0))
        done += size
    return calls


@dataclass(eq=False)
class _Chain:
    """A call in the plain forward pass: what one stage hands to the next."""

    residual: Array
    delta: Array | None = None

    def values(self) -> dict[str, Array]:
        found = {"residual": self.residual}
        return found if self.delta is None else found | {"delta": self.delta}


@dataclass(eq=False)
class _Run:
    """One localisation at work."""

    config: ModelConfig
    arithmetic: Arithmetic
    programs: Mapping[Phase, DebugProgram]
    calls: list[PlannedCall]
    cache_len: int
    scales: KvScales | None = None
    rows: list[LayerRow] = field(default_factory=list)
    chains: list[_Chain] = field(default_factory=list)

    @property
    def _rounds_cache(self) -> bool:
        return self.scales is not None or self.arithmetic.half_cache

    def embedding(self, states: list[CallState]) -> None:
        for planned in self.calls:
            self.chains.append(_Chain(self.programs[planned.phase].embedding(planned.call)))
        found = [{"embedding": chain.residual} for chain in self.chains]
        self._compare(None, {"embedding": ("embedding",)}, states, found, found)

    def layer(self, index: int, states: list[CallState]) -> None:
        own: list[dict[str, Array]] = []
        for planned, state in zip(self.calls, states, strict=True):
            assert state.past is not None
            program = self.programs[planned.phase]
            feeds = {
                name: padded(rows, program.width)
                for name, rows in state.values.items()
                if name not in ("key", "value", "sum2", "down_proj", "embedding")
            }
            own.append(program.layer(index, planned.call, feeds, state.past, cut=True) if planned.shown else {})
        whole = self._whole(index, states)
        names = {op: parts for op, parts in _PARTS.items() if op not in ("embedding", "norm", "lm_head")}
        widths = _widths(self.config)
        split = [[_split(values, widths) for values in runs] for runs in (own, whole)]
        expected = [CallState(s.call, s.residual, s.delta, _split(s.values, widths), s.past) for s in states]
        for runs in split:
            for state, values in zip(expected, runs, strict=True):
                if self.scales is not None:
                    _forgive_rounding(values, state.values, self.scales, index)
                elif self.arithmetic.half_cache:
                    _forgive_half(values, state.values)
        self._compare(index, names, expected, *split)

    def _whole(self, index: int, states: list[CallState]) -> list[dict[str, Array]]:
        """The layer as it is, over what came before it; the cache is the artifact's own."""
        found = []
        assert states[0].past is not None
        cache = states[0].past[0].copy(), states[0].past[1].copy()
        for planned, chain in zip(self.calls, self.chains, strict=True):
            call = planned.call
            values = self.programs[planned.phase].layer(index, call, chain.values(), cache, cut=False)
            chain.residual, chain.delta = values["sum2"], values["down_proj"]
            for buffer, kind in zip(cache, ("key", "value"), strict=True):
                end = call.past_length + len(call.tokens)
                buffer[:, call.past_length : end] = values[kind][:, : len(call.tokens)]
            found.append(values)
        return found

    def end(self, states: list[CallState]) -> None:
        own, whole = [], []
        for planned, state, chain in zip(self.calls, states, self.chains, strict=True):
            program = self.programs[planned.phase]
            feeds = {name: padded(rows, program.width) for name, rows in state.values.items() if name != "logits"}
            own.append(program.end(planned.call, feeds, cut=True) if planned.shown else {})
            whole.append(program.end(planned.call, chain.values(), cut=False))
        self._compare(None, {"norm": ("norm",), "lm_head": ("logits",)}, states, own, whole)

    def _compare(
        self,
        layer: int | None,
        names: Mapping[str, tuple[str, ...]],
        states: list[CallState],
        own: list[dict[str, Array]],
        whole: list[dict[str, Array]],
    ) -> None:
        for phase, program in self.programs.items():
            chosen = [
                index for index, planned in enumerate(self.calls) if planned.shown and planned.phase == phase
            ]
            for op, parts in names.items():
                runs = [states[i] for i in chosen], [own[i] for i in chosen], [whole[i] for i in chosen]
                rounds = _matrix(layer, op) in self.arithmetic.rules
                self.rows.append(
                    LayerRow(
                        phase, program.graph, layer, op,
                        self._worst(parts, runs[0], runs[1]), self._worst(parts, runs[0], runs[2]), rounds,
                        FLIPPED_CODES if op == "attention" and self._rounds_cache else TOLERANCE,
                    )
                )  # fmt: skip

    def _worst(self, parts: tuple[str, ...], states: list[CallState], runs: list[dict[str, Array]]) -> OpError:
        return max((self._error(part, states, runs) for part in parts), key=lambda error: error.worst_row)

    def _error(self, name: str, states: list[CallState], runs: list[dict[str, Array]]) -> OpError:
        ours, theirs, positions = [], [], []
        for state, values in zip(states, runs, strict=True):
            found, expected = values[name], state.values[name]
            count = len(state.call.tokens)
            where = list(range(state.call.past_length, state.call.past_length + count))
            if len(found) == 1 < count:
                # The graph has chosen the last token.
                expected, where = expected[-1:], where[-1:]
            ours.append(found[: len(where)])
            theirs.append(expected)
            positions += where
        return op_error(ours, theirs, positions)


_PARTS: dict[str, tuple[str, ...]] = {
    "input_layernorm": ("input_layernorm", "sum1"),
    "q_proj": ("q_proj",), "k_proj": ("k_proj",), "v_proj": ("v_proj",),
    "key": ("key",), "value": ("value",), "attention": ("attention",), "o_proj": ("o_proj",),
    "post_attention_layernorm": ("post_attention_layernorm", "sum2"),
    "gate_proj": ("gate_proj",), "up_proj": ("up_proj",),
    "activation": ("activation",), "down_proj": ("down_proj",),
}  # fmt: skip
"""Values that an operation of a layer is judged by: of a norm also the sum that it takes."""


def _widths(config: ModelConfig) -> dict[str, list[tuple[str, int]]]:
    """Projections of each fused result, with their widths."""
    inner = config.intermediate_size
    return {
        "qkv": [("q_proj", config.hidden_size), ("k_proj", config.kv_size), ("v_proj", config.kv_size)],
        "gate_up": [("gate_proj", inner), ("up_proj", inner)],
    }


def _split(values: Mapping[str, Array], widths: Mapping[str, list[tuple[str, int]]]) -> dict[str, Array]:
    """Fused results by projection, and cache rows by token: every value is (T, N)."""
    found = {name: array for name, array in values.items() if name not in (*widths, "key", "value")}
    for name, parts in widths.items():
        if name in values:
            ends = np.cumsum([width for _, width in parts])[:-1]
            found |= dict(zip((part for part, _ in parts), np.split(values[name], ends, axis=-1), strict=True))
    for kind in ("key", "value"):
        if kind in values:
            rows = values[kind].transpose(1, 0, 2)
            found[kind] = rows.reshape(len(rows), -1)
    return found


def _forgive_rounding(
    found: dict[str, Array], expected: Mapping[str, Array], scales: KvScales, layer: int
) -> None:
    """Take from rows of an int8 cache, (T, Hkv * D), what rounding to the nearest code explains."""
    for side in SIDES:
        if side in found:
            rows = expected[side]
            scale = scales.side(layer, side).reshape(1, -1).numpy()
            codes = found[side][: len(rows)] / scale
            found[side] = rows + beyond_rounding(codes, rows, scale)


def _forgive_half(found: dict[str, Array], expected: Mapping[str, Array]) -> None:
    """The same of a float16 cache."""
    for side in SIDES:
        if side in found:
            rows = expected[side]
            found[side] = rows + beyond_half_rounding(found[side][: len(rows)], rows)


def _matrix(layer: int | None, op: str) -> str:
    """Name of the weight of a projection; of other operations a name that no weight has."""
    if op == "lm_head":
        return HEAD
    if layer is None:
        return op
    part = "mlp" if op in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return layer_name(layer, f"{part}.{op}.weight")
