"""A token of llama.cpp as the sum of its counted operators, for the comparison with ours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from arm64.fit import Costs
from helium_edge.bench.phones import CHUNK, CONTEXTS, Step
from helium_edge.config import ModelConfig

FILES = {"Q4_0": ("q4_0", "q4_0"), "Q4_K_M": ("q4_K", "q6_K"), "Q8_0": ("q8_0", "q8_0")}
"""Kinds of GGUF files, as `llama-quantize` writes them: the type of most matrices, and that of values and of the
way down of the feed-forward block in half of the layers. The head is Q6_K, and Q8_0 in Q8_0."""
_NORM_WIDTH, _ACTIVATION_WIDTH = 2560, 7040


def llama_steps(costs: Costs, config: ModelConfig, file: str) -> tuple[Step, ...]:
    """Decode at each of `CONTEXTS`, and a token of a prefill of `CHUNK` into an empty cache.

    Args:
        costs: Of llama.cpp on one processor.
        config: The model.
        file: One of `FILES`.
    """
    products = [(float(count), costs[f"product {kind}"], share) for count, kind, share in _products(config, file)]
    layers, attention = config.num_hidden_layers, costs["attention float16"]
    steps = []
    for context in CONTEXTS:
        instructions = sum(count * cost["decode"] + share * cost["call"] for count, cost, share in products)
        rows = config.num_attention_heads * context
        instructions += layers * (attention["call"] + rows * attention["decode"])
        read = sum(count * cost["bytes"] for count, cost, _ in products)
        read += layers * config.num_key_value_heads * context * attention["bytes"]
        steps.append(Step(context, instructions + _others(costs, config, "decode"), read))
    *body, (head_count, head, _) = products
    instructions = sum(count * cost["prefill"] for count, cost, _ in body) + head_count * head["decode"] / CHUNK
    instructions += layers * config.num_attention_heads * attention["chunk at 0"] / CHUNK
    read = sum(count * cost["bytes"] for count, cost, _ in products) / CHUNK
    return *steps, Step(None, instructions + _others(costs, config, "prefill"), read)


def _products(config: ModelConfig, file: str) -> Iterator[tuple[int, str, float]]:
    """Weights, type and calls of each product; the head last."""
    most, finer = FILES[file]
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    rows = config.num_attention_heads * config.head_dim
    kept = config.num_key_value_heads * config.head_dim
    yield layers * 2 * hidden * rows, most, 2 * layers
    yield layers * hidden * kept, most, layers
    yield layers * 2 * hidden * inner, most, 2 * layers
    for kind in (most, finer):
        yield layers * hidden * (kept + inner) // 2, kind, layers
    yield config.vocab_size * hidden, "q8_0" if file == "Q8_0" else "q6_K", 1


def _others(costs: Mapping[str, Mapping[str, float]], config: ModelConfig, phase: str) -> float:
    norms = (2 * config.num_hidden_layers + 1) * config.hidden_size / _NORM_WIDTH
    activations = config.num_hidden_layers * config.intermediate_size / _ACTIVATION_WIDTH
    return norms * costs["norm"][phase] + activations * costs["activation"][phase]
