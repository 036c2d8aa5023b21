"""Which fault turns which level red: the table that the tests go through and that docs/faults.md shows."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("L0", "L1", "L2", "L3", "cache")


@dataclass(frozen=True)
class Fault:
    """A fault planted into a bundle, into the program while it is exported, or into the host.

    Attributes:
        title: What is wrong, for the documentation.
        bundle: Recipe of the bundle that is hit.
        plant: Name among `ONNX_FAULTS`, `XNNPACK_FAULTS`, `HOST_FAULTS` or `EXPORT_FAULTS`.
        outcome: For each of `LEVELS` red, green, or `any`: the fault may be too small for what it judges.
        place: Layer and operation that localisation names; None where the graphs are right.
        layer: That is hit.
        static: Run the graphs of static shape.
        exported: Planted while exporting, not into a bundle.
        checks: Cache checks that must be among the red ones.
    """

    title: str
    bundle: str
    plant: str
    outcome: str
    place: tuple[int | None, str] | None = None
    layer: int = 1
    static: bool = False
    exported: bool = False
    checks: tuple[str, ...] = ()

    @property
    def expected(self) -> dict[str, str]:
        """Red, green or any, by level."""
        return dict(zip(LEVELS, self.outcome.split(), strict=True))

    @property
    def id(self) -> str:
        """For the names of tests."""
        return f"{self.bundle}: {self.plant}{', static' if self.static else ''}"


_INT4, _PORTABLE, _KV8, _KV16 = "onnx-int4", "onnx-int4-portable", "onnx-int4-kv8", "onnx-int4-kv16"

ONNX = (
    # Weights: the store knows better (L0), and the yardstick computes with the store's integers (L1).
    Fault("nibbles swapped", _INT4, "swapped nibbles", "red red green red red", (1, "o_proj")),
    Fault("scales transposed", _INT4, "transposed scales", "red red green any red", (1, "down_proj")),
    Fault("one scale 2 % off", _INT4, "scale off", "red red green any any", (1, "o_proj")),
    Fault("one norm gain 2 % off", _INT4, "gain off", "red red green any any", (1, "post_attention_layernorm")),
    # Constants and wiring of the graph, which L0 reads back as well.
    Fault("theta of other models", _INT4, "wrong theta", "red red green red red", (0, "key")),
    Fault("half-split RoPE for interleaved rows", _INT4, "half-split rope", "red red green red red", (1, "key")),
    Fault("gate and up swapped", _INT4, "gate and up swapped", "red red green red red", (1, "gate_proj")),
    Fault("eps 1e-5 in one norm", _INT4, "eps 1e-5", "red red green any any", (0, "input_layernorm"), layer=0),
    Fault("weights of another layer in `decode.onnx` alone", _INT4, "decode elsewhere", "red red green any red",
          (1, "o_proj"), static=True, checks=("token by token", "prefill equals decode")),
    # The graph computes something else from the right weights.
    Fault("one key-value head dropped", _INT4, "head dropped", "green red green red red", (1, "attention")),
    Fault("cache written one slot off, by the graph", _INT4, "slot off", "green red green any red", (1, "key")),
    Fault("`last_index` off by one", _INT4, "last index off", "green red green any red", (None, "lm_head")),
    Fault("mask one token long", _PORTABLE, "mask one long", "green red green any red", (0, "attention")),
    Fault("tail padding leaks", _PORTABLE, "padding leaks", "green red green red red", (0, "attention")),
    Fault("tail padding leaks into `prefill.onnx`", _PORTABLE, "padding leaks", "green red green red red",
          (0, "attention"), static=True, checks=("ragged tails", "prefill equals decode")),
    Fault("nibbles swapped", _PORTABLE, "swapped nibbles", "red red green red red", (1, "o_proj")),
    Fault("scales transposed", _PORTABLE, "transposed scales", "red red green any red", (1, "down_proj")),
    Fault("one scale 2 % off", _PORTABLE, "scale off", "red red green any any", (1, "o_proj")),
    Fault("half-split RoPE for interleaved rows", _PORTABLE, "half-split rope", "red red green red red",
          (1, "key")),
    # The host loses or misplaces rows of the cache; the graphs are right.
    Fault("cache written one slot off, by the host", _PORTABLE, "cache one slot off", "green red green any red",
          checks=("own slots only",)),
    Fault("stale cache: rows of decode calls are lost", _INT4, "stale cache", "green red green any red"),
    Fault("stale cache: rows of decode calls are lost", _PORTABLE, "stale cache", "green red green any red"),
    # An int8 cache: the yardstick knows its scales from the file that they were calibrated into.
    Fault("scales of keys and values swapped", _KV8, "cache scales swapped", "red red green any red", (1, "key")),
    Fault("the scale of one channel off by two", _KV8, "cache scale off", "red red green any any", (1, "value")),
    Fault("cache written one slot off, by the graph", _KV8, "slot off", "green red green any red", (1, "key")),
    Fault("cache written one slot off, by the host", _KV8, "cache one slot off", "green red green any red",
          checks=("own slots only",)),
    Fault("stale cache: rows of decode calls are lost", _KV8, "stale cache", "green red green any red"),
    # A float16 cache.
    Fault("rows rounded before RoPE too", _KV16, "rounded before rotation", "green red green any red",
          (1, "key")),
    Fault("half-split RoPE for interleaved rows", _KV16, "half-split rope", "red red green any red", (1, "key")),
    Fault("theta of other models", _KV16, "wrong theta", "red red green any red", (0, "key")),
    Fault("cache written one slot off, by the graph", _KV16, "slot off", "green red green any red", (1, "key")),
    Fault("cache written one slot off, by the host", _KV16, "cache one slot off", "green red green any red",
          checks=("own slots only",)),
    Fault("stale cache: rows of decode calls are lost", _KV16, "stale cache", "green red green any red"),
)  # fmt: skip

_XNNPACK, _XKV8, _XKV16 = "xnnpack-int4", "xnnpack-int4-kv8", "xnnpack-int4-kv16"

XNNPACK = (
    Fault("nibbles swapped", _XNNPACK, "swapped nibbles", "red red green red red", (1, "o_proj")),
    Fault("scales transposed", _XNNPACK, "transposed scales", "red red green any red", (1, "down_proj")),
    Fault("one scale 2 % off", _XNNPACK, "scale off", "red red green any any", (1, "o_proj")),
    Fault("half-split RoPE for interleaved rows", _XNNPACK, "half-split rope", "red red green red red",
          (1, "q_proj")),
    Fault("one key-value head dropped", _XNNPACK, "head dropped", "red red green red red", (1, "v_proj")),
    Fault("eps 1e-5 in one norm", _XNNPACK, "eps 1e-5", "red red green any any", (0, "input_layernorm"), layer=0),
    Fault("theta of other models", _XNNPACK, "wrong theta", "red red green red red", (0, "key")),
    Fault("gate and up swapped", _XNNPACK, "gate and up swapped", "red red green red red", (1, "gate_proj")),
    Fault("weights of another layer in `decode` alone", _XNNPACK, "decode elsewhere", "red red green any red",
          (1, "o_proj"), checks=("token by token", "prefill equals decode")),
    Fault("mask one token long", _XNNPACK, "mask one long", "green red green any red", (0, "attention")),
    Fault("positions off by one", _XNNPACK, "position off", "green red green any red", (0, "key")),
    Fault("`last_index` off by one", _XNNPACK, "last index off", "green red green any red", (None, "norm")),
    Fault("tail padding leaks", _XNNPACK, "padding leaks", "green red green red red", (0, "attention"),
          exported=True, checks=("ragged tails", "prefill equals decode")),
    Fault("cache written one slot off, by the host", _XNNPACK, "cache one slot off", "green red green any red",
          checks=("own slots only",)),
    Fault("stale cache: rows of decode calls are lost", _XNNPACK, "stale cache", "green red green any red"),
    Fault("stale cache: a shorter method keeps the last conversation", "xnnpack-int4 with a bucket",
          "stale bucket", "green green green green red", checks=("second conversation",)),
    # An int8 cache: scales stand in constants beside conversions of scale 1.
    Fault("scales of keys and values swapped", _XKV8, "cache scales swapped", "red red green any red", (1, "key")),
    Fault("the scale of one channel off by two", _XKV8, "cache scale off", "red red green any any", (1, "value")),
    Fault("queries of one head without the scales of their keys", _XKV8, "key scales of a head lost",
          "red red green any red", (1, "attention")),
    Fault("scales of values of another layer", _XKV8, "value scales elsewhere", "red red green any red",
          (1, "attention")),
    Fault("the cache read by another scale", _XKV8, "cache read otherwise", "red red green any red",
          (1, "attention")),
    Fault("new rows rounded down, not to the nearest code", _XKV8, "rows rounded down", "red red green any red",
          (0, "key"), exported=True),
    Fault("cache written one slot off, by the host", _XKV8, "cache one slot off", "green red green any red",
          checks=("own slots only",)),
    Fault("stale cache: rows of decode calls are lost", _XKV8, "stale cache", "green red green any red"),
    # A float16 cache.
    Fault("new rows half a step too small", _XKV16, "rows below", "red red green any red", (0, "key"),
          exported=True),
    Fault("cache written one slot off, by the host", _XKV16, "cache one slot off", "green red green any red",
          checks=("own slots only",)),
    Fault("stale cache: rows of decode calls are lost", _XKV16, "stale cache", "green red green any red"),
)  # fmt: skip
