"""Facts that a `.pte` carries in itself: methods without inputs that return a constant.

The first names are those that ExecuTorch's own LLM runner and tools look up; the rest say what a host of our
contract needs where no manifest lies beside the file.

Source: pytorch/executorch extension/llm/runner/constants.h.
"""

from __future__ import annotations

from helium_edge.config import ModelConfig
from helium_edge.recipe import Recipe

CONTRACT_VERSION = 2
"""Version of the inputs, outputs and cache rules of the methods."""


def text_metadata(config: ModelConfig, tokens: int) -> dict[str, bool | int | list[int]]:
    """Constants by method name of a classifier or encoder, for texts of `tokens` tokens."""
    constants: dict[str, bool | int | list[int]] = {
        "get_vocab_size": config.vocab_size,
        "get_max_seq_len": tokens,
        "use_kv_cache": False,
        "enable_dynamic_shape": False,
        "helium_edge_contract": CONTRACT_VERSION,
        "helium_edge_labels": len(config.labels),
    }
    if config.pad_token_id is not None:
        constants["helium_edge_pad_id"] = config.pad_token_id
    return constants


def metadata_methods(
    config: ModelConfig, recipe: Recipe, buckets: list[int], widths: list[int], lengths: list[int]
) -> dict[str, bool | int | list[int]]:
    """Constants by method name.

    Args:
        config: The model.
        recipe: Its shapes, with the cache capped at the model's context.
        buckets: Cache lengths of the decode methods, ascending; the last is that of `decode`.
        widths: Tokens of the prefill methods, ascending; the last is that of `prefill`.
        lengths: Shorter caches, ascending, that each of them is there for once more: `prefill_TOKENS_LENGTH`.
    """
    shapes = recipe.shapes
    constants: dict[str, bool | int | list[int]] = {
        "get_vocab_size": config.vocab_size,
        # Their names: the longest prompt chunk of one call, and the tokens of a conversation.
        "get_max_seq_len": shapes.prefill_len,
        "get_max_context_len": shapes.cache_len,
        "get_eos_ids": list(config.eos_token_ids),
        "use_kv_cache": True,
        "use_sdpa_with_kv_cache": False,
        "enable_dynamic_shape": False,
        "helium_edge_contract": CONTRACT_VERSION,
        "helium_edge_prefill_len": shapes.prefill_len,
        "helium_edge_cache_len": shapes.cache_len,
        "helium_edge_cache_buckets": buckets,
        "helium_edge_prefill_buckets": widths,
        "helium_edge_prefill_cache_buckets": lengths,
        "helium_edge_layers": config.num_hidden_layers,
        "helium_edge_kv_heads": config.num_key_value_heads,
        "helium_edge_head_dim": config.head_dim,
        "helium_edge_logits_all": recipe.logits == "all",
    }
    if config.bos_token_id is not None:
        constants["get_bos_id"] = config.bos_token_id
    return constants
