"""Counts instructions and bytes of single operators on an emulated processor, with a plugin of the emulator."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arm64.operators import Job, run_operators
from arm64.toolchain import Toolchain, build_runner, find_toolchain
from arm64.wheels import Library, cache_folder
from helium_edge.durable import replacing
from helium_edge.errors import BundleError, HeliumEdgeError, MissingToolError

PACKAGE = "qemu-user"
"""Debian's emulator with plugins: its statically linked one, `qemu-user-static`, has none."""
WARMUPS = 2
_LINE = 64


@dataclass(frozen=True)
class Count:
    """What one run of a job executed.

    Attributes:
        instructions: Executed.
        bytes_loaded: By all of them.
        bytes_stored: Likewise.
        bytes_read: Of distinct 64-byte lines that were read: what must come from memory at least.
        bytes_written: The same of lines that were written.
    """

    instructions: int
    bytes_loaded: int
    bytes_stored: int
    bytes_read: int
    bytes_written: int


def find_counter() -> Toolchain:
    """The cross compiler, and an emulator that takes plugins.

    Raises:
        MissingToolError: One of them, or a compiler for this machine, is missing.
    """
    tools, emulator = find_toolchain(), shutil.which("qemu-aarch64")
    if emulator is None or b"qemu_plugin_reset" not in Path(emulator).read_bytes():
        raise MissingToolError(
            "counting instructions needs qemu-aarch64 with plugins, which is not installed",
            hint=f"apt-get install {PACKAGE}",
        )
    if shutil.which("cc") is None:
        raise MissingToolError(
            "counting instructions needs a C compiler, cc, which is not installed", hint="apt-get install gcc"
        )
    return dataclasses.replace(tools, emulator=emulator)


def build_plugin() -> Path:
    """Compile the plugin, or take the one that was compiled before from the same source.

    Raises:
        HeliumEdgeError: The compiler stopped.
    """
    source = Path(__file__).parent / "counter.c"
    plugin = cache_folder() / f"counter-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}.so"
    if not plugin.is_file():
        with replacing(plugin) as partial:
            command = ["cc", "-shared", "-fPIC", "-O2", str(source), "-o", str(partial)]
            done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
            if done.returncode:
                raise HeliumEdgeError(f"cc cannot build {source.name}: {done.stderr.strip()}")
    return plugin


def count_jobs(tools: Toolchain, library: Library, cpu: str, folder: Path, jobs: Sequence[Job]) -> list[Count]:
    """Run jobs, and count the last run of each, after some that fill caches and choose kernels.

    Args:
        tools: Of `find_counter`.
        library: The runtime.
        cpu: One of `toolchain.CPUS`.
        folder: Where their graphs lie.
        jobs: What to run, in one process.

    Raises:
        BundleError: A graph did not load, or its run stopped.
    """
    program = build_runner(tools, library, "operators")
    begin, end = (_address(tools, program, name) for name in ("helium_edge_begin", "helium_edge_end"))
    # The emulator starts to watch at the first mark: what the first job gives is none.
    ready = [dataclasses.replace(job, warmups=WARMUPS) for job in (jobs[0], *jobs)]
    with tempfile.TemporaryDirectory(prefix="helium-edge-arm64-") as name:
        out = Path(name) / "counts"
        run_operators(
            tools, library, cpu, folder, ready, f"{build_plugin()},begin={begin:x},end={end:x},out={out}"
        )
        lines = out.read_text(encoding="ascii").splitlines() if out.is_file() else []
    words = [list(map(int, line.split())) for line in lines]
    counts = [
        Count(executed, loaded, stored, _LINE * read, _LINE * written)
        for executed, loaded, stored, read, written in words
    ]
    if len(counts) not in (len(jobs), len(ready)):
        raise BundleError(f"{len(counts)} runs were counted of {len(ready)}")
    return counts[-len(jobs) :]


def _address(tools: Toolchain, program: Path, name: str) -> int:
    """Where a function of a program lies; it is not moved when it is loaded."""
    command = [tools.compiler.replace("g++", "nm"), str(program)]
    done = subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")
    for line in done.stdout.splitlines():
        words = line.split()
        if words[-1:] == [name]:
            return int(words[0], 16)
    raise HeliumEdgeError(f"{program.name} has no function {name}")
