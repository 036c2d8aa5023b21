"""Write a random checkpoint in the shape of a released model, for measurements at full size.

    python benchmarks/make_checkpoint.py helium-1-preview-2b helium-2b
    python benchmarks/make_checkpoint.py helium-1-preview-2b wide --layers 2

bfloat16 safetensors shards of at most 512 MiB, one in memory at a time. Weights spread as in trained models: by
fan-in, rows of unequal size, gains around 1. The tokenizer is that of helium-tiny, filled up with pieces that no
text contains. The same seed gives the same bytes.

The head knows a successor of every token, some well and some hardly: it has the direction of the token's embedding
beside its noise. What follows is then nearly certain after some tokens and open after others, as in a trained
model. From noise alone it would be open everywhere: rounding would choose the likeliest token, and the gates of a
recipe, which are about trained weights, would say nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from helium_edge.checkpoint import open_checkpoint
from helium_edge.checkpoint.weight_map import expected_tensors
from helium_edge.config import ModelConfig
from helium_edge.memory import peak_rss_bytes
from helium_edge.presets import PRESETS

SHARD_BYTES = 512 << 20
LOGIT_RMS = 1.5  # of the noise
SUCCESSOR_LOGIT = (14.0, 3.0)  # mean and spread over tokens, were the embedding all that reaches the head


def spread(config: ModelConfig, name: str, shape: tuple[int, ...]) -> float:
    """Standard deviation of a matrix: unit variance through the layers, small steps on the residual stream."""
    if "embed_tokens" in name:
        return 1.0
    scale = 1 / math.sqrt(shape[1])
    if "lm_head" in name:
        return LOGIT_RMS * scale
    if "o_proj" in name or "down_proj" in name:
        return scale / math.sqrt(2 * config.num_hidden_layers)
    return scale


def tensors(config: ModelConfig, seed: int) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the model, in order."""
    embedding = torch.empty(0)
    for index, (name, expected) in enumerate(expected_tensors(config).items()):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + index)
        if len(expected.shape) == 1:
            values = torch.empty(expected.shape).uniform_(0.7, 1.3, generator=generator)
        else:
            rows = (0.3 * torch.randn(expected.shape[0], 1, generator=generator)).exp_()
            values = torch.randn(expected.shape, generator=generator).mul_(rows)
            values *= spread(config, name, expected.shape)
        if name == "model.embed_tokens.weight":
            embedding = values.to(torch.bfloat16)
        elif name == "lm_head.weight":
            add_successors(values, embedding, generator)
        yield name, values.to(torch.bfloat16)


def add_successors(head: torch.Tensor, embedding: torch.Tensor, generator: torch.Generator) -> None:
    """Let each row of the head, (V, E), answer to the embedding of one token, (V, E): a bigram a token."""
    mean, deviation = SUCCESSOR_LOGIT
    logits = mean + deviation * torch.randn(len(head), 1, generator=generator)
    # What the last norm hands to the head has a length of about sqrt(E).
    lengths = logits / math.sqrt(head.shape[1])
    successors = torch.randperm(len(head), generator=generator)
    for start in range(0, len(head), 4096):
        rows = slice(start, start + 4096)
        head[successors[rows]] += lengths[rows] * torch.nn.functional.normalize(embedding[rows].float())


def write_weights(config: ModelConfig, folder: Path, seed: int) -> int:
    """Write shards and their index; returns the bytes of all weights."""
    shards: list[list[str]] = []
    pending: dict[str, torch.Tensor] = {}
    total = 0

    def flush() -> None:
        save_file(pending, folder / f"part-{len(shards)}.safetensors", metadata={"format": "pt"})
        shards.append(list(pending))
        pending.clear()

    for name, tensor in tensors(config, seed):
        if pending and sum(part.nbytes for part in pending.values()) + tensor.nbytes > SHARD_BYTES:
            flush()
        pending[name] = tensor
        total += tensor.nbytes
    flush()
    listing = {}
    for number, names in enumerate(shards):
        file = f"model-{number + 1:05d}-of-{len(shards):05d}.safetensors"
        (folder / f"part-{number}.safetensors").rename(folder / file)
        listing |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": total}, "weight_map": listing}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return total


def write_tokenizer(folder: Path, vocab_size: int) -> None:
    """Write helium-tiny's tokenizer, filled up to `vocab_size` pieces."""
    origin = open_checkpoint("helium-tiny").folder
    tokenizer = json.loads((origin / "tokenizer.json").read_text(encoding="utf-8"))
    pieces: list[list[Any]] = tokenizer["model"]["vocab"]
    pieces += [[f"<unused-{index}>", -100.0] for index in range(vocab_size - len(pieces))]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).write_bytes((origin / name).read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preset", choices=sorted(PRESETS))
    parser.add_argument("folder", type=Path, help="a folder that does not exist yet")
    parser.add_argument("--layers", type=int, help="fewer decoder layers, for a quick look at full width")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.perf_counter()
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    data = {**PRESETS[given.preset], **ids, "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    if given.layers:
        data["num_hidden_layers"] = given.layers
    config = ModelConfig.from_dict(data)
    given.folder.mkdir(parents=True)
    total = write_weights(config, given.folder, given.seed)
    write_tokenizer(given.folder, config.vocab_size)
    (given.folder / "config.json").write_text(json.dumps({**data, "dtype": "bfloat16"}, indent=2) + "\n")
    print(
        f"{given.folder}: {config.num_parameters / 1e9:.2f} billion parameters, {total / 1e9:.2f} GB in "
        f"{time.perf_counter() - started:.0f} s, at most {peak_rss_bytes() / 1e9:.2f} GB of memory"
    )


if __name__ == "__main__":
    main()
