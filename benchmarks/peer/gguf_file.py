"""A Helium or Llama checkpoint as a GGUF file of llama.cpp's `llama` architecture, written one tensor at a time.

llama.cpp's rope of type NORM turns adjacent pairs (2i, 2i + 1), which is Helium's own order: its q and k rows are
written as they are. Rows of a `llama` checkpoint, which turn halves, are reordered per head. The vocabulary is
left out (`no_vocab`): the benchmark feeds token ids.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
import numpy.typing as npt
import torch

from helium_edge.checkpoint import Checkpoint
from helium_edge.config import ModelConfig
from helium_edge.model.rope import restore_interleaved_rows

FloatType = Literal["f32", "bf16"]

QUANTIZED = {"q4_0": 2, "q8_0": 7, "q4_k_m": 15}
"""The `llama_ftype` of each file that `quantize` writes (llama.h)."""

BUFFER_BYTES = 512 << 20


def gguf_tensors(checkpoint: Checkpoint) -> dict[str, str]:
    """Return the GGUF name of every tensor of a checkpoint, by its own name."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, checkpoint.config.num_hidden_layers)
    found = {name: names.get_name(name, (".weight", ".bias")) for name in checkpoint.tensors}
    unknown = [name for name, mapped in found.items() if mapped is None]
    if unknown:
        raise ValueError(f"llama.cpp's llama architecture has no place for {', '.join(unknown[:3])}")
    return {name: mapped for name, mapped in found.items() if mapped is not None}


def write_gguf(checkpoint: Checkpoint, path: Path, dtype: FloatType = "bf16") -> None:
    """Write matrices as `dtype` and vectors as float32; no more than one tensor is in memory.

    Raises:
        ValueError: A tensor that the architecture does not have.
    """
    names = gguf_tensors(checkpoint)
    writer = gguf.GGUFWriter(path, "llama")
    _write_facts(writer, checkpoint.config, dtype)
    for name, shape, kind in _listing(checkpoint, dtype):
        # Declared as float32 or uint16 of the true shape: only bfloat16 needs a raw type.
        stored = np.dtype(np.float32 if kind == "f32" else np.uint16)
        raw = None if kind == "f32" else gguf.GGMLQuantizationType.BF16
        writer.add_tensor_info(names[name], shape, stored, int(np.prod(shape)) * stored.itemsize, raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for name, _, kind in _listing(checkpoint, dtype):
        writer.write_tensor_data(_data(checkpoint, name, kind))
    writer.close()


def quantize(source: Path, target: Path, kind: str, threads: int) -> None:
    """Quantize a GGUF file with llama.cpp's own code.

    Raises:
        RuntimeError: llama.cpp refused.
    """
    import ctypes

    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.nthread = threads
    params.ftype = QUANTIZED[kind]
    params.max_buf_size = BUFFER_BYTES
    code = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params))
    if code != 0:
        raise RuntimeError(f"llama_model_quantize({kind}) returned {code}")


def _write_facts(writer: gguf.GGUFWriter, config: ModelConfig, dtype: FloatType) -> None:
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if dtype == "f32" else gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_tokenizer_model("no_vocab")


def _listing(checkpoint: Checkpoint, dtype: FloatType) -> Iterator[tuple[str, tuple[int, ...], FloatType]]:
    for name, info in checkpoint.tensors.items():
        yield name, info.shape, dtype if len(info.shape) == 2 else "f32"


def _data(checkpoint: Checkpoint, name: str, kind: FloatType) -> npt.NDArray[Any]:
    tensor = checkpoint.read(name)
    half_split = not checkpoint.config.rope_interleaved
    if half_split and (".q_proj." in name or ".k_proj." in name):
        tensor = restore_interleaved_rows(tensor, checkpoint.config.head_dim)
    if kind == "f32":
        return tensor.float().numpy()
    return tensor.to(torch.bfloat16).contiguous().view(torch.uint16).numpy()
