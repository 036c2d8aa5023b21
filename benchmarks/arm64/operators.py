"""Runs single operators with the kernels of phones: small graphs over given inputs, in one emulated process."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from arm64.toolchain import Toolchain, build_runner, emulate
from arm64.wheels import Library
from helium_edge.errors import BundleError

Array = npt.NDArray[Any]

_TYPES = {"int8": "i8", "int32": "i32", "int64": "i64", "float16": "f16", "float32": "f32"}


@dataclass(frozen=True)
class Output:
    """What a graph gives.

    Attributes:
        shape: Its shape.
        dtype: As numpy names it.
        over: The input whose memory it is written over; None has memory of its own, and is returned.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    over: str | None = None


@dataclass(frozen=True)
class Job:
    """One graph, run once over its inputs.

    Attributes:
        file: The graph, in the folder of all of them.
        inputs: By name, in the order of the graph.
        outputs: Likewise.
        method: Of a `.pte`.
        warmups: Runs before the one that counts.
        name: For whoever reads the results.
    """

    file: str
    inputs: Mapping[str, Array]
    outputs: Mapping[str, Output]
    method: str = ""
    warmups: int = 0
    name: str = field(default="")


def run_operators(
    tools: Toolchain, library: Library, cpu: str, folder: Path, jobs: Sequence[Job], plugin: str = ""
) -> list[dict[str, Array]]:
    """Run each job on an emulated processor.

    Args:
        tools: Compiler and emulator.
        library: The runtime.
        cpu: One of `toolchain.CPUS`.
        folder: Where the graphs lie.
        jobs: What to run, in this order, in one process.
        plugin: A plugin of the emulator with its arguments.

    Returns:
        The outputs of each job that have memory of their own.

    Raises:
        BundleError: A graph did not load, or its run stopped.
    """
    program = build_runner(tools, library, "operators")
    with tempfile.TemporaryDirectory(prefix="helium-edge-arm64-") as name:
        root = Path(name)
        script, values, out, system = (root / part for part in ("script.txt", "values.bin", "out.bin", "system"))
        system.mkdir()
        script.write_text(write_operators(jobs), encoding="utf-8")
        with values.open("wb") as file:
            for job in jobs:
                for array in job.inputs.values():
                    file.write(np.ascontiguousarray(array).tobytes())
        arguments = [str(script), str(values), str(out), str(folder), *library.program_arguments()]
        emulate(tools, cpu, program, arguments, system, plugin)
        return list(_read_outputs(out.read_bytes(), jobs))


def write_operators(jobs: Sequence[Job]) -> str:
    """The text of the script; its format is described in `operators.h`."""
    lines = ["helium-edge-operators 1", str(len(jobs))]
    for job in jobs:
        names = list(job.inputs)
        lines.append(f'"{job.file}" "{job.method}" {job.warmups}')
        lines.append(str(len(names)))
        lines += [_operand(name, str(array.dtype), array.shape) for name, array in job.inputs.items()]
        lines.append(str(len(job.outputs)))
        lines += [
            f"{_operand(name, out.dtype, out.shape)} {-1 if out.over is None else names.index(out.over)}"
            for name, out in job.outputs.items()
        ]
    return "\n".join(lines) + "\n"


def _operand(name: str, dtype: str, shape: Sequence[int]) -> str:
    return " ".join([f'"{name}"', _TYPES[dtype], str(len(shape)), *map(str, shape)])


def _read_outputs(data: bytes, jobs: Sequence[Job]) -> Iterator[dict[str, Array]]:
    done = 0
    for job in jobs:
        found = {}
        for name, out in job.outputs.items():
            if out.over is not None:
                continue
            dtype = np.dtype(out.dtype)
            count = math.prod(out.shape)
            if done + count * dtype.itemsize > len(data):
                raise BundleError("the ARM64 run wrote less than its jobs give")
            found[name] = np.frombuffer(data, dtype, count, done).reshape(out.shape)
            done += count * dtype.itemsize
        yield found
    if done != len(data):
        raise BundleError("the ARM64 run wrote more than its jobs give")
