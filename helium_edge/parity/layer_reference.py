"""The yardstick of localisation: our torch decoder, a layer at a time, with every intermediate value.

Nothing is changed in the decoder: its modules are watched from outside. Only one layer is in memory.

Shape legend: T tokens of a call, S cache slots, Hkv key-value heads, D head_dim, C hidden_size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from helium_edge.config import ModelConfig
from helium_edge.model.decoder import ACTIVATIONS, MASKED, DecoderLayer, causal_mask
from helium_edge.model.parts import Parts
from helium_edge.model.rope import rope_tables
from helium_edge.model.weights import FINAL_NORM, HEAD
from helium_edge.targets.debug import Array, DebugCall


@dataclass(eq=False)
class CallState:
    """What one call carries from layer to layer."""

    call: DebugCall
    residual: Tensor
    delta: Tensor | None = None
    values: dict[str, Array] = field(default_factory=dict)
    past: tuple[Array, Array] | None = None


class LayerReference:
    """Runs calls of one conversation through the decoder, layer by layer.

    Args:
        config: The model.
        parts: Makes the modules; asked for them in the order of the forward pass.
        calls: The calls, in order; together they make the conversation.
        cache_len: S.
    """

    def __init__(self, config: ModelConfig, parts: Parts, calls: list[DebugCall], cache_len: int) -> None:
        self._config = config
        self._parts = parts
        self._cache_len = cache_len
        self._cos, self._sin = rope_tables(config.rope_theta, config.head_dim, cache_len)
        self._layer = 0
        with torch.inference_mode():
            embedding = parts.embedding()
            self.states = [CallState(call, embedding(torch.from_numpy(call.tokens))) for call in calls]
        for state in self.states:
            state.values = {"embedding": state.residual.numpy()}

    @torch.inference_mode()
    def next_layer(self) -> list[CallState]:
        """Run the next layer over all calls; each state then holds its values and the past that it read.

        The slots after the cached tokens hold numbers like those of a used cache: they must not matter.
        """
        config = self._config
        block = DecoderLayer(config, self._parts, self._layer, ACTIVATIONS[config.hidden_act])
        shape = (config.num_key_value_heads, self._cache_len, config.head_dim)
        generator = torch.Generator().manual_seed(self._layer)
        cache = [torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)]
        for state in self.states:
            state.past = (cache[0].numpy().copy(), cache[1].numpy().copy())
            self._run(block, state, (cache[0], cache[1]))
        self._layer += 1
        return self.states

    @torch.inference_mode()
    def end(self) -> list[CallState]:
        """Run the final norm and the head over all calls."""
        norm, head = self._parts.norm(FINAL_NORM), self._parts.linear([HEAD])
        for state in self.states:
            x = state.residual if state.delta is None else state.residual + state.delta
            normed = norm(x)
            state.values = self._inputs(state) | {"norm": normed.numpy(), "logits": head(normed).numpy()}
        return self.states

    def _run(self, block: DecoderLayer, state: CallState, cache: tuple[Tensor, Tensor]) -> None:
        past, tokens = state.call.past_length, len(state.call.tokens)
        positions = torch.arange(past, past + tokens)
        rope = self._cos[positions], self._sin[positions]
        masks = (
            torch.where(torch.arange(self._cache_len) < past, 0.0, MASKED)[None],
            causal_mask(self._config, tokens),
        )
        x = state.residual if state.delta is None else state.residual + state.delta
        with watched(block) as seen:
            _, key, value = block(x, rope, masks, cache)
        state.values = self._inputs(state) | {
            name: tensor.contiguous().numpy()
            for name, tensor in {
                "input_layernorm": seen["norm1"][1], "sum1": x, "qkv": seen["qkv"][1],
                "attention": seen["o"][0], "o_proj": seen["o"][1],
                # Rows of an int8 cache as they are before they are rounded: codes are compared with those.
                "key": seen["key_rows"][0] if "key_rows" in seen else key,
                "value": seen["value_rows"][0] if "value_rows" in seen else value,
                "post_attention_layernorm": seen["norm2"][1], "sum2": seen["norm2"][0],
                "gate_up": seen["gate_up"][1], "activation": seen["down"][0], "down_proj": seen["down"][1],
            }.items()
        }  # fmt: skip
        state.residual, state.delta = seen["norm2"][0], seen["down"][1]
        for buffer, rows in zip(cache, (key, value), strict=True):
            buffer[:, past : past + tokens] = rows

    def _inputs(self, state: CallState) -> dict[str, Array]:
        found = {"residual": state.residual.numpy()}
        return found if state.delta is None else found | {"delta": state.delta.numpy()}


@contextmanager
def watched(module: torch.nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """While the block runs, input and output of each child of a module, by the child's name."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(name: str) -> Callable[[torch.nn.Module, tuple[Tensor, ...], Tensor], None]:
        def keep(_: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[name] = inputs[0], output

        return keep

    handles = [child.register_forward_hook(hook(name)) for name, child in module.named_children()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def padded(rows: Array, width: int | None) -> Array:
    """Rows filled up to a graph's width with other numbers of the same size: what is there must not matter."""
    if width is None or len(rows) == width:
        return rows
    return np.concatenate([rows, np.repeat(-rows[-1:], width - len(rows), axis=0)])
