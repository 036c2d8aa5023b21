"""From multi-head to grouped-query attention: the key and value heads of each group are averaged.

The key-value heads of a checkpoint are cut into contiguous groups, as attention reads them, and the projections of
a group are replaced by their mean; queries and the rest stay. Averaging heads commutes with RoPE, which turns all
heads alike, so it is the same for both layouts of rows. Without further training quality drops sharply: the paper
trains another 5 % of the original steps.

Source: Ainslie et al. 2023, arXiv 2305.13245, section 2.1; HeliumConfig, `num_key_value_heads`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from helium_edge.checkpoint.reader import CONFIG_FILE, INDEX_FILE, SINGLE_FILE, Checkpoint
from helium_edge.checkpoint.source import TOKENIZER_FILES
from helium_edge.documents import parse_json
from helium_edge.durable import PartialFolder, sync_file, sync_folder
from helium_edge.errors import ResourceError, UsageError
from helium_edge.progress import SILENT, Progress

SHARD_BYTES = 4 << 30
"""Tensors are collected up to this size before a file is written: the memory that a conversion needs."""

_COPIED = (*TOKENIZER_FILES, "generation_config.json")


def pool_heads(tensor: torch.Tensor, head_dim: int, groups: int) -> torch.Tensor:
    """Average the heads of each contiguous group of a key or value projection.

    Args:
        tensor: (Hkv * D, K) weight or (Hkv * D,) bias.
        head_dim: D.
        groups: G, a divisor of Hkv.

    Returns:
        (G * D, K) or (G * D,) of the type of `tensor`; the mean is taken in float32.
    """
    heads = tensor.reshape(groups, -1, head_dim, *tensor.shape[1:])
    if heads.shape[1] == 1:
        return tensor
    return heads.float().mean(dim=1).to(tensor.dtype).reshape(groups * head_dim, *tensor.shape[1:])


def check_groups(checkpoint: Checkpoint, groups: int) -> None:
    """Refuse a number of key-value heads that the checkpoint cannot be pooled to.

    Raises:
        UsageError: It is not below the present number, or does not divide it.
    """
    present = checkpoint.config.num_key_value_heads
    allowed = [size for size in range(1, present) if present % size == 0]
    if groups not in allowed:
        shown = ", ".join(map(str, allowed)) or "none, it has a single one"
        raise UsageError(
            f"{checkpoint.source}: {present} key-value heads cannot be pooled to {groups}; allowed: {shown}"
        )


def write_grouped(checkpoint: Checkpoint, groups: int, out: Path, progress: Progress = SILENT) -> None:
    """Write a checkpoint like another, with fewer key-value heads.

    The folder appears complete or not at all; what a run left that was killed is removed. Other files than
    weights, config and tokenizer are left behind.

    Args:
        checkpoint: The original.
        groups: Key-value heads of the new one.
        out: Its folder, which must not exist yet.
        progress: Advanced by each tensor once it is read.

    Raises:
        UsageError: `groups` does not fit, or `out` is taken.
        CheckpointError: A tensor cannot be read.
        ResourceError: The disk is full.
    """
    check_groups(checkpoint, groups)
    if os.path.lexists(out):
        raise UsageError(f"{out}: is already there", hint="name another folder, or remove it")
    with PartialFolder(out, shown=str(out), activity="conversion") as folder:
        partial = folder.path
        need = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
        free = shutil.disk_usage(partial).free
        if need > free:
            raise ResourceError(f"{out}: {need / 1e9:.2f} GB do not fit, {free / 1e9:.2f} GB are free")
        _write_weights(partial, _pooled(checkpoint, groups, progress), need)
        for name in _COPIED:
            source = checkpoint.find_file(name)
            if source is not None:
                shutil.copyfile(source, partial / name)
        for source in checkpoint.template_files():
            (partial / source.parent.name).mkdir(exist_ok=True)
            shutil.copyfile(source, partial / source.parent.name / source.name)
        checkpoint.check_unchanged()
        config = parse_json((checkpoint.folder / CONFIG_FILE).read_bytes())
        config["num_key_value_heads"] = groups
        _write_text(partial / CONFIG_FILE, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
        for path in partial.iterdir():
            sync_file(path)
        sync_folder(partial)
        folder.publish()


def _pooled(checkpoint: Checkpoint, groups: int, progress: Progress) -> Iterator[tuple[str, torch.Tensor]]:
    """Name in the file and values of each tensor, one at a time."""
    for name, info in checkpoint.tensors.items():
        tensor = checkpoint.read(name)
        if ".self_attn.k_proj." in name or ".self_attn.v_proj." in name:
            tensor = pool_heads(tensor, checkpoint.config.head_dim, groups)
        yield info.name, tensor
        progress.advance(note=name)


def _write_weights(folder: Path, tensors: Iterator[tuple[str, torch.Tensor]], most: int) -> None:
    """One file, or shards with an index where the tensors are more than one shard holds."""
    shards: list[Path] = []
    listing: dict[str, int] = {}
    total, size = 0, 0
    part: dict[str, torch.Tensor] = {}
    expected = max(1, math.ceil(most / SHARD_BYTES))

    def flush() -> None:
        path = folder / (SINGLE_FILE if expected == 1 else f"part-{len(shards)}.safetensors")
        save_file(part, path, metadata={"format": "pt"})
        shards.append(path)
        part.clear()

    for name, tensor in tensors:
        if expected > 1 and part and size + tensor.nbytes > SHARD_BYTES:
            flush()
            size = 0
        part[name] = tensor.contiguous()
        listing[name] = len(shards)
        size += tensor.nbytes
        total += tensor.nbytes
    flush()
    if expected > 1:
        names = [f"model-{index + 1:05d}-of-{len(shards):05d}.safetensors" for index in range(len(shards))]
        for path, name in zip(shards, names, strict=True):
            path.rename(folder / name)
        index = {"metadata": {"total_size": total}, "weight_map": {key: names[at] for key, at in listing.items()}}
        _write_text(folder / INDEX_FILE, json.dumps(index, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
