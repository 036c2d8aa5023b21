"""Tensors of kinds that no export takes, told by their names: quantized ones, and adapters left unmerged."""

from __future__ import annotations

import re
from collections.abc import Iterable

from helium_edge.checkpoint.header import TensorInfo
from helium_edge.documents import shorten
from helium_edge.errors import CheckpointError

_UNQUANTIZED = "bring the unquantized checkpoint: quantizing is what the export does"
_UNMERGED = (
    "an adapter was saved inside its model: merge it first, "
    "model.merge_and_unload().save_pretrained(NEW_FOLDER) in peft"
)

# What such tensors are called, in the order in which they are looked for, and what to do about it. A name of the
# first kind that is found decides: GPTQ and AWQ share most names.
_KINDS: tuple[tuple[re.Pattern[str], str, str], ...] = (
    (re.compile(r"(.*\.)?lora_(A|B|embedding_A|embedding_B|magnitude_vector)(\..*)?"), "LoRA", _UNMERGED),
    (re.compile(r".*\.base_layer\..*"), "adapter", _UNMERGED),
    (re.compile(r".*\.g_idx"), "GPTQ", _UNQUANTIZED),
    (re.compile(r".*\.(qweight|qzeros)"), "GPTQ or AWQ", _UNQUANTIZED),
    (re.compile(r".*\.(SCB|absmax|nested_absmax|quant_map|nested_quant_map|quant_state\..*)"), "bitsandbytes",
     _UNQUANTIZED),
    (re.compile(r".*\.(weight_packed|weight_zero_point)"), "compressed-tensors", _UNQUANTIZED),
    (re.compile(r".*\.(weight_scale|weight_scale_inv|weight_scale_2|input_scale)"), "scaled FP8", _UNQUANTIZED),
    (re.compile(r".*\.(codes|codebooks)"), "AQLM", _UNQUANTIZED),
    (re.compile(r".*_proj\.(scales|biases)"), "quantized", _UNQUANTIZED),
)  # fmt: skip


def refuse_foreign(tensors: Iterable[TensorInfo]) -> None:
    """Refuse a checkpoint that is quantized, or that holds an adapter beside the weights it belongs to.

    Raises:
        CheckpointError: It is; the message says of which kind its tensors are, and names one.
    """
    tensors = list(tensors)
    for pattern, kind, hint in _KINDS:
        found = [tensor for tensor in tensors if pattern.fullmatch(tensor.name)]
        if found:
            more = f" and {len(found) - 1} more" if len(found) > 1 else ""
            raise CheckpointError(
                f"{found[0].file}: holds {kind} tensors: {shorten(found[0].name)}{more}", hint=hint
            )
