"""What onnxruntime-genai reads beside `genai.onnx`; written for version 0.18."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from helium_edge.bundle.companions import token_ids, write_json
from helium_edge.bundle.sections import GenerationSection
from helium_edge.bundle.verify import GENAI_CONFIG
from helium_edge.config import ModelConfig
from helium_edge.signature import ATTENTION_MASK, INPUT_IDS, LOGITS

GENAI_GRAPH = "genai.onnx"

_NO_KEY = ("min_p", "suppress_tokens", "stop_strings", "max_new_tokens")
"""Settings that its `search` has no key for; it refuses a file with a key that it does not know."""


def beyond_genai(generation: GenerationSection) -> tuple[str, ...]:
    """Names of settings of a checkpoint that onnxruntime-genai cannot take from its config."""
    plain = GenerationSection()
    given = [name for name in _NO_KEY if getattr(generation, name) != getattr(plain, name)]
    if generation.max_length is not None and "max_new_tokens" in given:
        given.remove("max_new_tokens")  # it repeats `max_length`, which has a key
    return tuple(given)


def write_genai_config(
    config: ModelConfig, cache_len: int, folder: Path, generation: GenerationSection, stop: Iterable[int] = ()
) -> None:
    """Write `genai_config.json` for `genai.onnx`, whose cache onnxruntime-genai shares between past and present.

    Its `llama` stands for any decoder with these inputs and outputs; how positions are rotated is in the graph.

    Args:
        config: The model, with the ids that end generation.
        cache_len: Slots of the cache, which bound prompt and answer together.
        folder: Of the bundle.
        generation: Defaults of the checkpoint.
        stop: Ids that end an answer of a chat fine-tune; it knows one list, so they end any text.
    """
    decoder = {
        "filename": GENAI_GRAPH,
        "head_size": config.head_dim,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
        "inputs": {
            "input_ids": INPUT_IDS,
            "attention_mask": ATTENTION_MASK,
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": LOGITS,
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    model = {
        "type": "llama",
        "context_length": cache_len,
        "vocab_size": config.vocab_size,
        "decoder": decoder,
        **token_ids(config),
    }
    ends = list(dict.fromkeys((*config.eos_token_ids, *stop)))
    if len(ends) > 1:
        model["eos_token_id"] = ends
    # It asks for a pad id even when nothing is ever padded, as with one sequence.
    if config.pad_token_id is None and config.eos_token_ids:
        model["pad_token_id"] = config.eos_token_ids[0]
    write_json(folder / GENAI_CONFIG, {"model": model, "search": _search(config, cache_len, generation)})


def _search(config: ModelConfig, cache_len: int, generation: GenerationSection) -> dict[str, Any]:
    """How it chooses tokens: as transformers would by the same checkpoint, as far as it can."""
    from helium_edge.checkpoint.sampling_values import DEFAULT_TOP_K  # which loads torch; reading a card must not

    # Without sampling transformers has 50 here as well, and a host that switches sampling on gets the same; with 1
    # it would go on taking the likeliest token. More than the vocabulary is an error to it.
    top_k = generation.top_k if generation.do_sample else DEFAULT_TOP_K
    return {
        "do_sample": generation.do_sample,
        "early_stopping": True,
        "max_length": min(cache_len, generation.max_length or cache_len),
        "min_length": 0,
        "no_repeat_ngram_size": generation.no_repeat_ngram_size,
        "num_beams": 1,
        "num_return_sequences": 1,
        "past_present_share_buffer": True,
        "repetition_penalty": generation.repetition_penalty,
        "temperature": generation.temperature,
        "top_k": min(top_k, config.vocab_size),
        "top_p": generation.top_p,
    }
