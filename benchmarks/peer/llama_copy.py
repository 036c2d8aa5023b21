"""A Helium checkpoint as the same model under the name `llama`, for peers that know Llama and not Helium.

The rows of q and k are reordered per head, so that Llama's half-split RoPE turns the pairs that Helium's turns:
the logits are equal. Renaming `model_type` alone builds everywhere and is wrong.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from safetensors.torch import save_file

from helium_edge.checkpoint import TOKENIZER_FILES, Checkpoint
from helium_edge.model.weights import read_weight

SHARD_BYTES = 512 << 20


def write_llama_copy(checkpoint: Checkpoint, folder: Path) -> None:
    """Write the copy, a shard of at most 512 MiB in memory at a time."""
    folder.mkdir(parents=True)
    config = json.loads((checkpoint.folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    for name in TOKENIZER_FILES:
        path = checkpoint.find_file(name)
        if path is not None:
            shutil.copyfile(path, folder / name)
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in checkpoint.tensors.items():
        if shards[-1] and size + info.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.nbytes
    listing = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: read_weight(checkpoint, name).contiguous() for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        listing |= dict.fromkeys(names, file)
    total = sum(info.nbytes for info in checkpoint.tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": listing}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2), encoding="utf-8")
