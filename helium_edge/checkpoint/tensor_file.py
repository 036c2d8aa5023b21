"""The data of one tensor, read into memory, so that a file that shrinks meanwhile is an error.

A mapped file ends the process by SIGBUS where it was cut, in whatever native code touches it. A copy costs little,
some gigabytes a second, and one weight is held at a time.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from helium_edge.checkpoint.header import TensorInfo

_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_MOST = 1 << 30  # Linux reads no more than 2 GiB at once


def read_tensor(path: Path, info: TensorInfo) -> torch.Tensor:
    """Read one tensor in its stored dtype.

    Args:
        path: The safetensors file.
        info: What its header said of the tensor; of a dtype in `weight_map.DTYPES`.

    Raises:
        OSError: The file cannot be opened or read.
        EOFError: It ends before the tensor does.
    """
    data = torch.empty(info.nbytes, dtype=torch.uint8)
    view = memoryview(data.numpy())  # type: ignore[arg-type] # numpy says it for Python 3.12
    with path.open("rb", buffering=0) as file:
        file.seek(info.offset, os.SEEK_SET)
        while view:
            count = file.readinto(view[:_MOST])
            if not count:
                raise EOFError(f"the file ends {len(view)} bytes before it does")
            view = view[count:]
    return data.view(_DTYPES[info.dtype]).reshape(info.shape)
