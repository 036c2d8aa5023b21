"""The torch decoder that level L1 compares with: same weights, same rounding, the runtime's own cache.

Each row is computed over the cache that the runtime itself has written, so that nothing adds up: a difference
belongs to the call in which it arose, and the rows that the call wrote are compared on their own. Many calls are
computed at once, each seeing no more of the cache than it had.

Where an activation lies between two codes, to within float32 noise, it is rounded to either side (a *tie*,
`emulation.py`). Rows that differ are therefore traced (`trace.py`): the yardstick takes, at ties and at nothing
else, the codes that the runtime took, and is computed anew. What then still differs is no matter of rounding.

An int8 or float16 cache is read as the runtime has written it, the row's own slot included, so that a number that
noise tips to the other side of a tie moves nothing; the rows that a call wrote are right where rounding explains
them (`kv_cache.beyond_rounding`, `kv_cache.beyond_half_rounding`).

Shapes: T tokens, L layers, Hkv key-value heads, S slots, D head_dim, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.errors import HeliumEdgeError
from helium_edge.model.decoder import MASKED, DecoderStack
from helium_edge.model.kv_cache import KvScales, beyond_half_rounding, beyond_rounding
from helium_edge.model.rope import rope_tables
from helium_edge.parity.emulation import EmulatedParts, Ledger
from helium_edge.parity.rollout import Step
from helium_edge.parity.saturation import SaturationMeter
from helium_edge.parity.trace import Tracer
from helium_edge.parity.verdict import NOISE
from helium_edge.quant import WeightStore
from helium_edge.quant.activations import Arithmetic
from helium_edge.runtime.runner import Logits

_SUSPECT = NOISE / 10
"""Error from which a row is traced: most ties cost more, float32 noise less."""

_MOST_SEARCHED, _MOST_TURNED, _MOST_TRIED = 4, 3, 256
"""Rows of a step whose ties are searched for, ties that are turned in one, and ties that are tried for each."""

_SEARCHES = 8
"""Searches in vain after which no more are made: what differs then is no tie."""

_FEW_TIES = 200_000_000
"""Parameters up to which ties are rare: beyond, every token has several, and to trace it costs a forward pass."""

Array = npt.NDArray[np.float64]

_Ties = Sequence[tuple[int, int]]
"""Product and place of each."""


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


def has_few_ties(config: ModelConfig) -> bool:
    """Whether a model is small enough that most tokens have no tie."""
    return config.num_parameters <= _FEW_TIES


class Yardstick:
    """Computes what a graph must give.

    Args:
        store: The weights that were exported; dequantized here, 4 bytes per parameter.
        arithmetic: How the kernels treat activations.
        cache_len: S.
        scales: Of an int8 cache; None where the cache is not quantized.
        tracer: Tells what the runtime rounded; None where that cannot be told.
        elsewhere: How kernels on other processors treat activations, by their names; costs no memory.

    Attributes:
        elsewhere: As given.
        saturation: Values of the compared rows that an int8 cache clips; None where it is not quantized.
        rounds_cache: The cache holds rounded rows, int8 or float16.
        traces: Ties are told from bugs: activations are rounded, by a rule that is known, and there is a tracer.
    """

    def __init__(
        self,
        store: WeightStore,
        arithmetic: Arithmetic,
        cache_len: int,
        scales: KvScales | None = None,
        tracer: Tracer | None = None,
        elsewhere: Mapping[str, Arithmetic] | None = None,
    ) -> None:
        self.config: ModelConfig = store.config
        self.cache_len = cache_len
        self.arithmetic = arithmetic
        self.elsewhere = elsewhere or {}
        self._ledger = Ledger()
        self._scales = None if scales is None else [scale.numpy() for scale in scales.buffers()]
        self.saturation = None if scales is None else SaturationMeter(scales)
        self.rounds_cache = scales is not None or arithmetic.half_cache
        every = [arithmetic, *self.elsewhere.values()]
        self._stack = DecoderStack(self.config, EmulatedParts(store, every, self._ledger, scales))
        self._tables = rope_tables(self.config.rope_theta, self.config.head_dim, cache_len)
        rounds = arithmetic.rounds or arithmetic.half_attention
        self._tracer = tracer if rounds and arithmetic.exact else None
        self._widths: dict[int, int] = {}
        self._searches = _SEARCHES

    @property
    def traces(self) -> bool:
        """Whether ties are rounded as the runtime rounded them."""
        return self._tracer is not None

    def plain_logits(self, tokens: Sequence[int], *, round_cache: bool = True) -> Logits:
        """(T, V) logits of a whole conversation, activations as they are: what level L2 compares.

        Args:
            tokens: T ids.
            round_cache: Round it as the bundle does; False is what the same weights give with a float32 one.
        """
        self._ledger.enabled, self._ledger.round_cache = False, round_cache
        try:
            return self._conversation(tokens)
        finally:
            self._ledger.enabled = True

    def logits_elsewhere(self, tokens: Sequence[int], processor: str) -> Logits:
        """(T, V) logits of a whole conversation as a processor of `elsewhere` computes it, its cache included."""
        self._ledger.processor, self._ledger.round_cache = 1 + list(self.elsewhere).index(processor), True
        try:
            return self._conversation(tokens)
        finally:
            self._ledger.processor = 0

    def _conversation(self, tokens: Sequence[int]) -> Logits:
        """(T, V) logits of all tokens at once, each over those before it."""
        count = len(tokens)
        shape = (self.config.num_key_value_heads, 0, self.config.head_dim)
        past = [torch.zeros(shape) for _ in range(2 * self.config.num_hidden_layers)]
        order = torch.arange(count)
        masks = torch.zeros(1, 0), self._per_head(order[None, :] <= order[:, None])
        return self._forward(tokens, order, masks, past)[0]

    def compare(self, step: Step) -> Agreement:
        """Compare a step, ties in rounding taken as the runtime took them where that can be told."""
        count, returned = len(step.tokens), len(step.logits)
        cache = self._cache(step)
        self._ledger.round_cache = False
        expected, new = self._rows(step, range(count), cache)
        if self.saturation is not None:
            self.saturation.add(new)
        errors = self._errors(step, range(count), expected, new)
        ties = np.zeros(count, np.int64)
        rows = np.flatnonzero((errors > _SUSPECT).any(axis=1)).tolist()
        if rows and self._tracer is not None:
            again, turned, new = self._traced(step, rows, cache, self._tracer)
            traced = self._errors(step, rows, again, new)
            nearer = np.nanmax(traced, axis=1) < np.nanmax(errors[rows], axis=1)
            kept = np.asarray(rows)[nearer]
            expected[kept], errors[kept], ties[kept] = again[nearer], traced[nearer], turned[nearer]
            left = np.flatnonzero((errors > NOISE).any(axis=1)).tolist()
            for row in left if len(left) <= _MOST_SEARCHED and self._searches else ():
                found = self._searched(step, row, cache)
                if found is None:
                    self._searches = max(self._searches - 1, 0)
                else:
                    expected[row], errors[row], ties[row] = found
        return Agreement(errors[:, -1], errors[:, :-1].max(axis=1), ties, expected[count - returned :])

    def _traced(
        self, step: Step, rows: Sequence[int], cache: Sequence[Tensor], tracer: Tracer
    ) -> tuple[Logits, npt.NDArray[np.int64], list[Logits]]:
        """As `_rows`, with ties as the runtime took them, and how many there were in each row."""
        try:
            self._ledger.traced = tracer.inputs(step, rows)
        except HeliumEdgeError:
            # What cannot be traced differs all the same.
            self._ledger.traced = {}
        self._ledger.ties = torch.zeros(len(rows), dtype=torch.int64)
        try:
            logits, new = self._rows(step, rows, cache)
            return logits, self._ledger.ties.numpy(), new
        finally:
            self._ledger.traced, self._ledger.ties = {}, None

    def _searched(
        self, step: Step, row: int, cache: Sequence[Tensor]
    ) -> tuple[npt.NDArray[np.float32], Array, int] | None:
        """Logits (V,), errors (L + 1,) and ties of a row, with the few ties turned that explain it; None without.

        For what a trace does not show: it runs the bundle's graphs in pieces, of which the widest serve for all,
        and float32 noise, which decides ties, is not the same in every kernel. Only ties are ever turned.
        """
        turned: list[tuple[int, int]] = []
        try:
            for _ in range(_MOST_TURNED):
                self._ledger.near, self._ledger.flips = {}, _masks(turned, 1, self._widths)
                self._rows(step, [row], cache)
                near = self._ledger.near
                self._widths = {product: mask.shape[1] for product, mask in near.items()}
                self._ledger.near = None
                tries = [
                    (product, int(place)) for product, mask in near.items() for place in mask[0].nonzero()[:, 0]
                ]
                tries = [each for each in tries if each not in turned]
                if not 0 < len(tries) <= _MOST_TRIED:
                    return None
                singles = [(each,) for each in tries]
                found, best = self._turned(step, row, cache, turned, singles)
                pairs = list(itertools.combinations(tries, 2))
                if found is None and len(turned) + 2 <= _MOST_TURNED and 0 < len(pairs) <= _MOST_TRIED:
                    # One of two alone may look worse than none.
                    found, _ = self._turned(step, row, cache, turned, pairs)
                if found is not None:
                    return found
                turned.extend(best)
        finally:
            self._ledger.near, self._ledger.flips = None, {}
        return None

    def _turned(
        self, step: Step, row: int, cache: Sequence[Tensor], turned: _Ties, each: Sequence[_Ties]
    ) -> tuple[tuple[npt.NDArray[np.float32], Array, int] | None, _Ties]:
        """What `_searched` returns for the best of `each`, turned beside `turned`; and which that is."""
        self._ledger.flips = _masks(turned, len(each), self._widths, each)
        logits, new = self._rows(step, [row] * len(each), cache)
        errors = self._errors(step, [row] * len(each), logits, new)
        best = int(np.nanmax(errors, axis=1).argmin())
        if np.nanmax(errors[best]) > NOISE:
            return None, each[best]
        return (logits[best], errors[best], len(turned) + len(each[best])), each[best]

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
        # A rounded cache holds the row's own numbers: attention reads those, whichever side of a tie they are on.
        last = positions + 1 if self.rounds_cache else positions
        on_past = self._per_head(slots[None, :] < last[:, None])
        on_new = self._per_head(torch.zeros_like(own) if self.rounds_cache else own)
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
        elif self.rounds_cache:
            found = [rows + beyond_half_rounding(halves, rows) for halves, rows in zip(found, new, strict=True)]
        sides = [
            _relative(_by_token(ours), _by_token(expected)) for ours, expected in zip(found, new, strict=True)
        ]
        layers = [np.maximum(key, value) for key, value in zip(sides[::2], sides[1::2], strict=True)]
        first = len(step.tokens) - len(step.logits)
        given = [index for index, row in enumerate(rows) if row >= first]
        last = np.full(len(rows), np.nan)
        last[given] = _relative(step.logits[[rows[index] - first for index in given]], logits[given])
        return np.stack([*layers, last], axis=1)


def _masks(turned: _Ties, rows: int, widths: Mapping[int, int], each: Sequence[_Ties] = ()) -> dict[int, Tensor]:
    """(rows, K) by product: places that are turned in every row, and some more in each."""
    if not turned and not each:
        return {}
    masks = {product: torch.zeros(rows, width, dtype=torch.bool) for product, width in widths.items()}
    for product, place in turned:
        masks[product][:, place] = True
    for row, more in enumerate(each):
        for product, place in more:
            masks[product][row, place] = True
    return masks


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
