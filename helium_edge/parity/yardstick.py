"""The torch decoder that level L1 compares with: same weights, same rounding, the runtime's own cache.

Each row is computed over the cache that the runtime itself has written, so that nothing adds up: a difference
belongs to the call in which it arose, and the rows that the call wrote are compared on their own. Many calls are
computed at once, each seeing no more of the cache than it had.

Where rows differ because of a tie in the rounding of an activation (`emulation.py`), the yardstick looks for that
tie: it rounds candidates the other way until the rows agree. A difference that some choice of ties explains to
float32 noise is no bug; one that none explains may be. The first layer whose cache rows differ tells where to
look.

An int8 cache is read as the runtime has written it, the row's own slot included, so that a code that noise tips
to the other side of a tie moves nothing; the rows that a call wrote are compared by codes: right is what rounding
explains (`kv_cache.beyond_rounding`).

Shapes: T tokens, L layers, Hkv key-value heads, S slots, D head_dim, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.model.decoder import MASKED, DecoderStack
from helium_edge.model.kv_cache import KvScales, beyond_rounding
from helium_edge.model.rope import rope_tables
from helium_edge.parity.emulation import Arithmetic, EmulatedParts, Ledger, Sides, Tie
from helium_edge.parity.rollout import Step
from helium_edge.parity.saturation import SaturationMeter
from helium_edge.parity.verdict import NOISE
from helium_edge.quant import QuantizedStore
from helium_edge.runtime.runner import Logits

_ROUNDS = 16
"""Choices of ties tried for one row at most."""

_NEARER = 0.95
"""Largest share of the error that is left when a tie was one of those to turn: of two ties of equal weight 0.71,
of four 0.87. A tie that was not rounded the other way adds to the error."""

_PRODUCTS = 4
"""Products of a layer: qkv, o, gate_up, down."""

_SEARCHED = 200_000_000
"""Parameters up to which ties are searched for: beyond, each try takes seconds, and every token has several."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Agreement:
    """How far rows of a step are from the yardstick; every array is (T,).

    Attributes:
        logits: rms(delta)/rms of each token's logits; NaN where the runtime returned none.
        rows: The largest over all layers of the same, of the key and value rows that the token wrote.
        ties: Activations rounded the other way for `logits` and `rows` to be what they are.
        expected: (R, V) the yardstick's logits, of the rows that the runtime returned.
    """

    logits: Array
    rows: Array
    ties: npt.NDArray[np.int64]
    expected: Logits

    @property
    def worst(self) -> Array:
        """(T,) the larger of the two."""
        return np.fmax(self.logits, self.rows)


def affords_search(config: ModelConfig) -> bool:
    """Whether a model is small enough that most of its tokens have no tie, or one that can be found."""
    return config.num_parameters <= _SEARCHED


class Yardstick:
    """Computes what a graph must give.

    Args:
        store: The weights that were exported; dequantized here, 4 bytes per parameter.
        arithmetic: How the kernels treat activations.
        cache_len: S.
        scales: Of an int8 cache; None where the cache is not quantized.

    Attributes:
        saturation: Values of the compared rows that an int8 cache clips; None where it is not quantized.
        searches: Ties are looked for: activations are rounded, and the model is small enough.
    """

    def __init__(
        self, store: QuantizedStore, arithmetic: Arithmetic, cache_len: int, scales: KvScales | None = None
    ) -> None:
        self.config: ModelConfig = store.config
        self.cache_len = cache_len
        self.arithmetic = arithmetic
        self._ledger = Ledger()
        self._scales = None if scales is None else [scale.numpy() for scale in scales.buffers()]
        self.saturation = None if scales is None else SaturationMeter(scales)
        self._stack = DecoderStack(self.config, EmulatedParts(store, arithmetic, self._ledger, scales))
        self._tables = rope_tables(self.config.rope_theta, self.config.head_dim, cache_len)
        self.searches = arithmetic.rounds and affords_search(self.config)

    def plain_logits(self, tokens: Sequence[int], *, int8_cache: bool = True) -> Logits:
        """(T, V) logits of a whole conversation, activations as they are: what level L2 compares.

        Args:
            tokens: T ids.
            int8_cache: Round the cache as the bundle does; False is what the same weights give with a float32 one.
        """
        count = len(tokens)
        shape = (self.config.num_key_value_heads, 0, self.config.head_dim)
        past = [torch.zeros(shape) for _ in range(2 * self.config.num_hidden_layers)]
        order = torch.arange(count)
        masks = torch.zeros(1, 0), self._per_head(order[None, :] <= order[:, None])
        self._ledger.enabled, self._ledger.round_cache = False, int8_cache
        try:
            return self._forward(tokens, order, masks, past)[0]
        finally:
            self._ledger.enabled = True

    def compare(self, step: Step) -> Agreement:
        """Compare a step, ties in rounding resolved where that is affordable."""
        count, returned = len(step.tokens), len(step.logits)
        cache = self._cache(step)
        self._ledger.found, self._ledger.pinned = {}, {}
        self._ledger.watch, self._ledger.round_cache = self.searches, False
        expected, new = self._rows(step, range(count), cache)
        if self.saturation is not None:
            self.saturation.add(new)
        search = Search(self._errors(step, range(count), expected, new), self._ledger.found)
        while self.searches and (rows := search.open_rows()):
            self._ledger.found = {}
            self._ledger.pinned = {index: search.trial(row) for index, row in enumerate(rows)}
            again, new = self._rows(step, rows, cache)
            for row in search.judge(rows, self._errors(step, rows, again, new), self._ledger.found):
                expected[row] = again[rows.index(row)]
        errors = search.errors
        return Agreement(errors[:, -1], errors[:, :-1].max(axis=1), search.ties, expected[count - returned :])

    def _cache(self, step: Step) -> list[Tensor]:
        """Views of the slots that hold tokens; those after them may hold anything, NaN included."""
        end = step.start + len(step.tokens)
        rows = [np.asarray(self._heads(array)[:, :end], np.float32) for array in step.cache]
        if self._scales is not None:
            rows = [codes * scale for codes, scale in zip(rows, self._scales, strict=True)]
        return [torch.from_numpy(array) for array in rows]

    def _heads(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A buffer of a runtime as (Hkv, S, D)."""
        return array.reshape(self.config.num_key_value_heads, -1, self.config.head_dim)

    def _rows(self, step: Step, rows: Sequence[int], cache: Sequence[Tensor]) -> tuple[Logits, list[Logits]]:
        """Logits and new rows of some tokens of a step, each on its own over what came before it."""
        positions = torch.tensor([step.start + row for row in rows])
        slots = torch.arange(cache[0].shape[1])
        own = torch.eye(len(rows), dtype=torch.bool)
        # An int8 cache holds the row's own codes: attention reads those, whichever side of a tie they are on.
        last = positions if self._scales is None else positions + 1
        on_past = self._per_head(slots[None, :] < last[:, None])
        on_new = self._per_head(own if self._scales is None else torch.zeros_like(own))
        return self._forward([step.tokens[row] for row in rows], positions, (on_past, on_new), cache)

    def _per_head(self, seen: Tensor) -> Tensor:
        """Additive mask of what each token sees, repeated for the query heads of a key-value head."""
        mask = torch.where(seen, 0.0, MASKED)
        return mask.repeat(self.config.num_attention_heads // self.config.num_key_value_heads, 1)

    @torch.inference_mode()
    def _forward(
        self, tokens: Sequence[int], positions: Tensor, masks: tuple[Tensor, Tensor], cache: Sequence[Tensor]
    ) -> tuple[Logits, list[Logits]]:
        """Logits (T, V), and the new key and value rows of each layer, each (Hkv, T, D)."""
        rope = self._tables[0][positions], self._tables[1][positions]
        x, new = self._stack(torch.tensor(list(tokens)), rope, masks, cache)
        return self._stack.logits(x).numpy(), [rows.numpy() for rows in new]

    def _errors(self, step: Step, rows: Sequence[int], logits: Logits, new: Sequence[Logits]) -> Array:
        """(R, L + 1): the relative rms of each token's cache rows by layer, and of its logits (NaN: not given)."""
        slots = [step.start + row for row in rows]
        found = [self._heads(array)[:, slots] for array in step.cache]
        if self._scales is not None:
            found = [
                rows + beyond_rounding(codes, rows, scale)
                for codes, rows, scale in zip(found, new, self._scales, strict=True)
            ]
        sides = [
            _relative(_by_token(ours), _by_token(expected)) for ours, expected in zip(found, new, strict=True)
        ]
        layers = [np.maximum(key, value) for key, value in zip(sides[::2], sides[1::2], strict=True)]
        first = len(step.tokens) - len(step.logits)
        given = [index for index, row in enumerate(rows) if row >= first]
        last = np.full(len(rows), np.nan)
        last[given] = _relative(step.logits[[rows[index] - first for index in given]], logits[given])
        return np.stack([*layers, last], axis=1)


class Search:
    """Finds, row by row, the ties that explain why a row is not what was expected.

    Args:
        errors: (T, L + 1) as found with no tie turned.
        ties: Ties of each row.

    Attributes:
        errors: The same with the ties turned that were kept.
        ties: (T,) how many were kept.
    """

    def __init__(self, errors: Array, ties: Mapping[int, Mapping[Tie, Sides]]) -> None:
        self.errors = errors.copy()
        self.ties = np.zeros(len(errors), np.int64)
        self._left = [_ROUNDS] * len(errors)
        self._known: list[dict[Tie, Sides]] = [{} for _ in errors]
        self._turned: list[dict[Tie, float]] = [{} for _ in errors]
        self._queues: list[list[tuple[Tie, float]]] = [[] for _ in errors]
        for row in range(len(errors)):
            self._learn(row, ties.get(row, {}))

    def open_rows(self) -> list[int]:
        """Rows that are not explained yet and have ties left to try."""
        return [
            row
            for row, queue in enumerate(self._queues)
            if queue and self._left[row] and self._first(self.errors[row]) is not None
        ]

    def trial(self, row: int) -> dict[Tie, float]:
        """The codes to take next: the known ones, and the other side of one tie."""
        taken = {tie: sides.taken for tie, sides in self._known[row].items()}
        return taken | self._turned[row] | dict(self._queues[row][:1])

    def judge(self, rows: Sequence[int], errors: Array, ties: Mapping[int, Mapping[Tie, Sides]]) -> list[int]:
        """Keep what brought a row nearer; returns the rows for which something was kept."""
        better = []
        for index, row in enumerate(rows):
            self._left[row] -= 1
            tie, code = self._queues[row].pop(0)
            if self._is_nearer(errors[index], self.errors[row]):
                self._turned[row][tie] = code
                self.ties[row] += 1
                self.errors[row] = errors[index]
                self._learn(row, ties.get(index, {}))
                better.append(row)
        return better

    def _learn(self, row: int, ties: Mapping[Tie, Sides]) -> None:
        """Pin new ties to the side they took, and queue all: those just before the first difference come first."""
        first = self._first(self.errors[row])
        if first is None:
            return
        last = _PRODUCTS * first
        known = self._known[row] = {**ties, **self._known[row]}
        # A product is quantized before it is computed: the cache rows of a layer come from its first product.
        usable = [tie for tie in known if tie.product <= last and tie not in self._turned[row]]
        usable.sort(key=lambda tie: (tie.product <= last - _PRODUCTS, known[tie].distance))
        self._queues[row] = [(tie, known[tie].other) for tie in usable]

    def _is_nearer(self, new: Array, old: Array) -> bool:
        """The first difference lies in a later layer, or is smaller than chance makes it."""
        first, before = self._first(new), self._first(old)
        assert before is not None
        return first is None or first > before or (first == before and new[first] < _NEARER * old[first])

    @staticmethod
    def _first(errors: Array) -> int | None:
        """Index of the first layer (L: the logits) that differs by more than noise; NaN logits were not given."""
        differs = np.flatnonzero(errors > NOISE)
        return int(differs[0]) if len(differs) else None


def _by_token(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(Hkv, R, D) to (R, Hkv * D)."""
    return np.moveaxis(rows, 1, 0).reshape(rows.shape[1], -1)


def _relative(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> Array:
    """(R,) rms of the difference over rms of what was expected; infinite where something is not finite."""
    signal = np.sqrt(np.square(expected, dtype=np.float64).mean(axis=1))
    with np.errstate(invalid="ignore", over="ignore"):
        noise = np.sqrt(np.square(found.astype(np.float64) - expected).mean(axis=1))
        ratio = noise / np.maximum(signal, np.finfo(np.float32).tiny)
    return np.where(np.isfinite(ratio), ratio, np.inf)
