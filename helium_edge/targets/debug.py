"""Debug programs: a bundle's own graphs, cut between operators, so that every intermediate value can be looked at.

A target that can be localised returns `DebugProgram`s. Each runs one stage of one graph at a time (embedding, a
layer, the end), so that of a large model a layer is in memory, in two ways: *whole*, fed with what the stage
before gave, or *cut*, where every operation is fed with inputs of the caller's choice and errors do not travel.

Values by name, T tokens of the call, all without a batch dimension:

| operation | takes | gives |
|---|---|---|
| embedding | token ids | `embedding` (T, C) |
| input_layernorm | `residual`, `delta` (T, C); layer 0 `residual` alone | `input_layernorm`, `sum1` (T, C) |
| qkv_proj | `input_layernorm` | `qkv` (T, C + 2 Hkv D) |
| attention | `qkv`, the past | `attention` (T, C), `key`, `value` (Hkv, T, D): the new rows, keys rotated |
| o_proj | `attention` | `o_proj` (T, C) |
| post_attention_layernorm | `sum1`, `o_proj` | `post_attention_layernorm`, `sum2` (T, C) |
| gate_up_proj | `post_attention_layernorm` | `gate_up` (T, 2 I), the gate first |
| activation | `gate_up` | `activation` (T, I) |
| down_proj | `activation` | `down_proj` (T, C) |
| norm | `residual`, `delta` | `norm` (R, C) |
| lm_head | `norm` (T, C) | `logits` (R, V) |

`residual` and `delta` are `sum2` and `down_proj` of the layer before, or the embedding. R is T or 1. Where queries
are rounded to float16, attention also gives `query` (T, C), before they are. An int8 or float16 cache, its new
rows included, is given and returned as float32: of int8 the real values of its codes.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from helium_edge.config import ModelConfig
from helium_edge.model.kv_cache import HIGHEST, LOWEST, KvScales, Side
from helium_edge.signature import Phase

Array = npt.NDArray[Any]
Values = Mapping[str, Array]

SMALL_MODEL = 200_000_000
"""Parameters up to which all stages stay loaded: ties of a token are traced through all of them, many times."""

_Stage = TypeVar("_Stage")


class LoadedStages(Generic[_Stage]):
    """Stages that are ready to run: all of them for a small model, the last one for a large one.

    Args:
        config: The model.
    """

    def __init__(self, config: ModelConfig) -> None:
        # Each layer and the end, whole and cut.
        self._most = 2 * (config.num_hidden_layers + 2) if config.num_parameters <= SMALL_MODEL else 1
        self._loaded: dict[Hashable, _Stage] = {}

    def get(self, key: Hashable, load: Callable[[], _Stage]) -> _Stage:
        """A stage by its name, loaded where it is not yet, after room has been made for it."""
        if key not in self._loaded:
            while len(self._loaded) >= self._most:
                del self._loaded[next(iter(self._loaded))]
            self._loaded[key] = load()
        return self._loaded[key]


@dataclass(frozen=True, eq=False)
class DebugCall:
    """One call of a graph.

    Attributes:
        tokens: (n,) token ids; a graph of more token slots is filled up with the last one.
        past_length: Tokens in the cache.
    """

    tokens: npt.NDArray[np.int64]
    past_length: int


class DebugProgram(Protocol):
    """One graph of a bundle, in stages.

    Attributes:
        graph: Its file, or the method within the file.
        phases: The calls that it serves: `prefill`, `decode` or both.
        width: Token slots of a call; None when any number goes.
    """

    graph: str
    phases: tuple[Phase, ...]
    width: int | None

    def embedding(self, call: DebugCall) -> Array:
        """(T, C): T is the graph's width, padded rows included."""
        ...

    def layer(
        self, index: int, call: DebugCall, values: Values, past: tuple[Array, Array], *, cut: bool
    ) -> dict[str, Array]:
        """Run one layer.

        Args:
            index: Which.
            call: The call that it is part of.
            values: What the operations take, with T rows, T the graph's width: `residual` and `delta`, and when
                cut all others too.
            past: The layer's cache, key and value, each (Hkv, S, D); not written to.
            cut: Whether every operation takes its input from `values`.

        Returns:
            What the operations give, with T rows.

        Raises:
            BundleError: The runtime stopped.
        """
        ...

    def end(self, call: DebugCall, values: Values, *, cut: bool) -> dict[str, Array]:
        """Run the final norm and the head; as `layer`."""
        ...


def split_parts(values: dict[str, Array], name: str, sizes: Sequence[int]) -> None:
    """Replace a value by its parts, `name.0` and so on, along the last axis."""
    whole = values.pop(name, None)
    if whole is not None:
        for part, array in enumerate(np.split(whole, np.cumsum(sizes)[:-1], axis=-1)):
            values[f"{name}.{part}"] = array


def join_parts(values: dict[str, Array], name: str) -> None:
    """Undo `split_parts`."""
    parts = sorted(key for key in values if key.startswith(f"{name}."))
    values[name] = np.concatenate([values.pop(key) for key in parts], axis=-1)


def rows_of_codes(codes: Array, scales: KvScales | None, layer: int, side: Side) -> Array:
    """Rows of a cache as real values, (Hkv, R, D) float32."""
    if scales is None:
        return codes.astype(np.float32, copy=False)
    real: Array = codes.astype(np.float32) * scales.side(layer, side)[:, None].numpy()
    return real


def codes_of_rows(rows: Array, scales: KvScales | None, layer: int, side: Side, dtype: str = "float32") -> Array:
    """The inverse, int8, or `dtype` where the cache is not quantized; exact for rows that came from a cache."""
    if scales is None:
        return rows.astype(dtype, copy=False)
    scale = scales.side(layer, side)[:, None].numpy()
    codes: Array = np.clip(np.rint(rows / scale), LOWEST, HIGHEST).astype(np.int8)
    return codes
