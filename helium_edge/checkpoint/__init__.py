"""Checkpoints: found, validated against their config.json, and read one tensor at a time.

`open_checkpoint` reads headers only; a tensor is read when it is asked for. Only safetensors are opened, never
pickle, and no code of a checkpoint is ever run.
"""

from helium_edge.checkpoint.header import TensorInfo
from helium_edge.checkpoint.reader import Checkpoint, ReadOptions, open_checkpoint
from helium_edge.checkpoint.source import TOKENIZER_FILES

__all__ = ["TOKENIZER_FILES", "Checkpoint", "ReadOptions", "TensorInfo", "open_checkpoint"]
