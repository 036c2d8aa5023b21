"""The programs outside Python that an ARM64 run needs: a cross compiler, and an emulator of a named processor."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from arm64.wheels import Library, cache_folder
from helium_edge.durable import replacing
from helium_edge.errors import BundleError, HeliumEdgeError, MissingToolError, UsageError, did_you_mean
from helium_edge.quant.activations import Processor

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64-static"
DEBIAN_PACKAGES = ("g++-aarch64-linux-gnu", "qemu-user-static")


@dataclass(frozen=True)
class Cpu:
    """A processor.

    Attributes:
        emulated: As the emulator names it.
        part: The number that the files below /proc tell.
        kind: By how kernels round on it.
        i8mm: It has matrix products of int8.
    """

    emulated: str
    part: str
    kind: Processor = "arm64"
    i8mm: bool = False


CPUS = {
    "cortex-a53": Cpu("cortex-a53", "0xd03", "arm64 without dot product"),
    "cortex-a72": Cpu("cortex-a72", "0xd08", "arm64 without dot product"),
    "cortex-a76": Cpu("cortex-a76", "0xd0b"),
    "neoverse-n1": Cpu("neoverse-n1", "0xd0c"),
    "i8mm": Cpu("max,sve=off,sme=off", "0xd47", i8mm=True),
}
"""Processors that may be asked for. The last three have the dot product of int8, as every phone since 2018; `i8mm`
has its matrix product and bfloat16 as well, as those since 2022. The emulator's default, `max`, is not among them:
its SME gave wrong logits."""

DEFAULT_CPU = "cortex-a76"

_CPUINFO = """processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: {part}
CPU revision\t: 0
"""


@dataclass(frozen=True)
class Toolchain:
    """Paths of the two programs."""

    compiler: str
    emulator: str


def find_toolchain() -> Toolchain:
    """Find both programs.

    Raises:
        MissingToolError: One of them is not installed.
    """
    found = {name: shutil.which(name) for name in (COMPILER, EMULATOR)}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise MissingToolError(
            f"the ARM64 run needs {' and '.join(missing)}, which {verb} not installed",
            hint=f"apt-get install {' '.join(DEBIAN_PACKAGES)}",
        )
    return Toolchain(str(found[COMPILER]), str(found[EMULATOR]))


def check_cpu(cpu: str) -> None:
    """Refuse processors of which nothing is known here.

    Raises:
        UsageError: Not among `CPUS`.
    """
    if cpu not in CPUS:
        raise UsageError(f"no processor named {cpu!r} for the ARM64 run", hint=did_you_mean(cpu, CPUS))


def build_runner(tools: Toolchain, library: Library, kind: str = "runner") -> Path:
    """Compile a program for a runtime, or take the one that was compiled before from the same sources.

    Args:
        tools: The compiler.
        library: The runtime.
        kind: `runner`, of the calls of a bundle, or `operators`, of single ones.

    Raises:
        HeliumEdgeError: The compiler stopped.
    """
    sources = Path(__file__).parent
    source = sources / library.source(kind)
    identity = hashlib.sha256(b"\0".join(path.read_bytes() for path in (source, *sorted(sources.glob("*.h")))))
    # Not moved when it is loaded: a plugin of the emulator finds functions by their address.
    command = [tools.compiler, "-std=c++17", "-O1", "-no-pie", str(source), *library.compiler_arguments()]
    identity.update("\0".join(command).encode())
    program = cache_folder() / f"{source.stem}-{identity.hexdigest()[:16]}"
    if program.is_file():
        return program
    with replacing(program) as partial:
        done = _run([*command, "-o", str(partial)])
        if done.returncode:
            raise HeliumEdgeError(f"{COMPILER} cannot build {source.name}: {_first_error(done.stderr)}")
    return program


def emulate(
    tools: Toolchain, cpu: str, program: Path, arguments: Sequence[str], folder: Path, plugin: str = ""
) -> None:
    """Run a program for ARM64.

    Args:
        tools: The emulator, and the compiler whose C library the program is given.
        cpu: One of `CPUS`.
        program: The program.
        arguments: Its arguments.
        folder: An empty folder for what the program is to see instead of the files of this machine.
        plugin: A plugin of the emulator with its arguments, as the emulator takes them.

    Raises:
        BundleError: It stopped with an error or crashed.
    """
    _write_system(tools, cpu, folder)
    plugins = ["-plugin", plugin] if plugin else []
    command = [tools.emulator, "-cpu", CPUS[cpu].emulated, *plugins, "-L", str(folder), str(program), *arguments]
    done = _run(command)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        detail = lines[-1] if lines else f"exit code {done.returncode}"
        raise BundleError(f"the ARM64 run on {cpu} stopped: {detail}")


def _write_system(tools: Toolchain, cpu: str, folder: Path) -> None:
    """Lay out the system that the program sees: the C library for ARM64, and one processor of that kind.

    The runtimes read the kind of processor from files; those of this machine tell of another one, and one of the
    runtimes crashes over them while it is loaded.
    """
    found = _run([tools.compiler, "-print-file-name=ld-linux-aarch64.so.1"]).stdout.strip()
    (folder / "lib").symlink_to(Path(found).resolve().parent)
    (folder / "proc").mkdir()
    (folder / "proc" / "cpuinfo").write_text(_CPUINFO.format(part=CPUS[cpu].part), encoding="ascii")
    processors = folder / "sys" / "devices" / "system" / "cpu"
    processors.mkdir(parents=True)
    for name in ("possible", "present", "online", "kernel_max"):
        (processors / name).write_text("0\n", encoding="ascii")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, check=False, text=True, errors="replace")


def _first_error(output: str) -> str:
    lines = output.strip().splitlines()
    return next((line for line in lines if "error" in line), lines[-1] if lines else "no message")
