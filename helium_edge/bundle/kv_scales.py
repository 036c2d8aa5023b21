"""`kv_scales.safetensors`: the scales of an int8 KV cache, as they were calibrated.

The graphs hold them too; this file is what L0 compares those with, and what tells a host how to read its cache.
"""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from helium_edge import durable
from helium_edge.bundle.verify import Bundle
from helium_edge.config import ModelConfig
from helium_edge.documents import DocumentError, first_line, read_document
from helium_edge.errors import BundleError
from helium_edge.model.kv_cache import KvScales, scales_from_tensors

KV_SCALES_FILE = "kv_scales.safetensors"

_MAX_BYTES = 1 << 26
"""A model of 2 billion parameters has half a megabyte."""


def write_kv_scales(scales: KvScales, folder: Path) -> None:
    """Write the file into a bundle's folder."""
    durable.write_file(folder / KV_SCALES_FILE, safetensors.torch.save(scales.tensors()))


def read_kv_scales(bundle: Bundle) -> KvScales | None:
    """The scales of a bundle's cache; None where its cache is not int8.

    Raises:
        BundleError: The file is missing, malformed, or of another model.
    """
    section = None if bundle.manifest.cache is None else bundle.manifest.cache.scales
    if section is None:
        return None
    config = ModelConfig.from_file(bundle.path("config.json"))
    try:
        tensors = safetensors.torch.load(read_document(bundle.path(section.file), _MAX_BYTES))
        return scales_from_tensors(tensors, config)
    except OSError as error:
        raise BundleError(f"{section.file}: not readable: {error.strerror}") from error
    except (DocumentError, SafetensorError, ValueError, KeyError) as error:
        raise BundleError(f"{section.file}: {first_line(error)}") from error
