from __future__ import annotations

import base64
import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from arm64 import check_arm64, toolchain, wheels
from arm64.toolchain import Toolchain, build_runner, check_cpu, emulate, find_toolchain
from arm64.wheels import Library, fetch_library, unpack
from helium_edge.bundle import TargetSection
from helium_edge.errors import BundleError, HeliumEdgeError, MissingToolError, UsageError
from tests.unit.bundle.bundles import write_bundle

LIBRARY = "onnxruntime/capi/libonnxruntime.so.9.9.9"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a release that nobody has."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("importlib.metadata.version", lambda name: "9.9.9+cpu")
    return wheels.cache_folder()


def write_wheel(path: Path, *, damage: bool = False, name: str = LIBRARY) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        record = ""
        for file, data in {name: b"library", "onnxruntime/__init__.py": b"code"}.items():
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record += f"{file},sha256={digest},{len(data)}\n"
            archive.writestr(file, b"librarx" if damage and file == name else data)
        archive.writestr("onnxruntime-9.9.9.dist-info/RECORD", record)
    return path


# -- programs


@pytest.mark.parametrize(
    ("present", "message"),
    [
        ((), "aarch64-linux-gnu-g++ and qemu-aarch64-static, which are not installed"),
        (("aarch64-linux-gnu-g++",), "needs qemu-aarch64-static, which is not installed"),
    ],
)
def test_missing_programs_are_named_with_the_command_that_installs_them(
    present: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: name if name in present else None)
    with pytest.raises(MissingToolError) as found:
        find_toolchain()
    assert message in found.value.message
    assert found.value.hint == "apt-get install g++-aarch64-linux-gnu qemu-user-static"
    assert found.value.exit_code == 5


@pytest.mark.parametrize("cpu", ["max", "cortex-a67", ""])
def test_processors_that_are_not_known_are_refused(cpu: str) -> None:
    with pytest.raises(UsageError, match="no processor named"):
        check_cpu(cpu)


def fake_program(folder: Path, text: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_the_runner_is_built_once_for_the_same_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = fake_program(tmp_path, f'echo run >> {tmp_path}/log; for last; do :; done; echo built > "$last"')
    library = Library("onnxruntime", "9.9.9", tmp_path)
    first = build_runner(Toolchain(compiler, ""), library)
    assert first.read_text() == "built\n"
    assert build_runner(Toolchain(compiler, ""), library) == first
    assert (tmp_path / "log").read_text() == "run\n"
    monkeypatch.setattr(Library, "compiler_arguments", lambda _: ["-lother"])
    assert build_runner(Toolchain(compiler, ""), library) != first


def test_what_the_compiler_says_is_told(tmp_path: Path) -> None:
    compiler = fake_program(
        tmp_path, "echo 'In file included' >&2; echo 'x.cpp:1: error: no such thing' >&2; exit 1"
    )
    with pytest.raises(HeliumEdgeError, match=r"cannot build runner_onnx\.cpp: x\.cpp:1: error: no such thing"):
        build_runner(Toolchain(compiler, ""), Library("onnxruntime", "9.9.9", tmp_path))


def test_the_program_sees_the_named_processor(tmp_path: Path) -> None:
    compiler = fake_program(tmp_path, "echo /usr/lib/ld-linux-aarch64.so.1")
    emulator = tmp_path / "emulator"
    emulator.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/log\n', encoding="utf-8")
    emulator.chmod(0o755)
    system = tmp_path / "system"
    system.mkdir()
    emulate(Toolchain(compiler, str(emulator)), "cortex-a53", Path("runner"), ["script"], system)
    assert (tmp_path / "log").read_text().split() == ["-cpu", "cortex-a53", "-L", str(system), "runner", "script"]
    assert "CPU part\t: 0xd03\n" in (system / "proc" / "cpuinfo").read_text()
    assert (system / "lib").is_symlink()


def test_a_crash_of_the_program_is_told(tmp_path: Path) -> None:
    program = fake_program(tmp_path, "echo noise >&2; echo 'uncaught target signal 11' >&2; exit 139")
    system = tmp_path / "system"
    system.mkdir()
    with pytest.raises(BundleError, match="the ARM64 run on cortex-a76 stopped: uncaught target signal 11"):
        emulate(Toolchain(program, program), "cortex-a76", Path("runner"), [], system)


# -- libraries


def test_a_wheel_in_the_cache_needs_no_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = write_wheel(cache / "onnxruntime-9.9.9-cp311-cp311-manylinux_2_28_aarch64.whl")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("pip was started"))
    library = fetch_library("onnxruntime")
    assert (library.version, library.source("runner")) == ("9.9.9", "runner_onnx.cpp")
    (path,) = library.program_arguments()
    assert Path(path).read_bytes() == b"library"
    assert not wheel.exists()
    assert fetch_library("onnxruntime") == library
    assert [path.name for path in cache.iterdir()] == ["onnxruntime-9.9.9"]


def test_pip_is_asked_for_the_other_platform(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        write_wheel(Path(command[command.index("--dest") + 1]) / "onnxruntime-9.9.9-cp311-x-aarch64.whl")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr("subprocess.run", run)
    fetch_library("onnxruntime")
    (command,) = commands
    assert command[-1] == "onnxruntime==9.9.9"
    assert {"--no-deps", "--only-binary=:all:", "manylinux_2_28_aarch64"} <= set(command)


def test_without_network_the_error_says_where_a_wheel_may_be_put(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: retrying\nERROR: No matching distribution\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: failed)
    with pytest.raises(MissingToolError) as found:
        fetch_library("executorch")
    assert "wheel of executorch 9.9.9: ERROR: No matching distribution" in found.value.message
    assert str(cache) in found.value.hint
    assert list(cache.iterdir()) == []


def test_a_damaged_wheel_is_refused_and_leaves_nothing(cache: Path) -> None:
    wheel = write_wheel(cache / "onnxruntime-9.9.9-cp311-x-aarch64.whl", damage=True)
    with pytest.raises(MissingToolError, match="is not as listed"):
        fetch_library("onnxruntime")
    assert list(cache.iterdir()) == [wheel]


def test_a_file_that_is_no_wheel_is_refused(tmp_path: Path) -> None:
    for number, data in enumerate((b"", b"x" * 1000)):
        path = tmp_path / f"{number}.whl"
        path.write_bytes(data)
        with pytest.raises(MissingToolError, match="not a usable wheel"):
            unpack(path, tmp_path, ("onnxruntime/",))


def test_a_wheel_without_the_library_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingToolError, match="nothing below executorch/lib/"):
        unpack(write_wheel(tmp_path / "a.whl"), tmp_path / "out", ("executorch/lib/",))


def test_a_wheel_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "a.whl", name="onnxruntime/../../../escaped")
    with pytest.raises(MissingToolError, match="leaves the folder"):
        unpack(wheel, tmp_path / "out", ("onnxruntime/",))
    assert not (tmp_path / "escaped").exists()


# -- what can be run


def test_bundles_of_other_targets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arm64.find_toolchain", lambda: Toolchain("", ""))
    bundle = write_bundle(tmp_path / "b", target=TargetSection(name="coreml", options={}))
    with pytest.raises(UsageError, match="takes bundles for onnx and xnnpack; this one is for coreml"):
        check_arm64(bundle)


def test_the_emulators_default_processor_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'max'"):
        check_arm64(tmp_path, cpu="max")
    assert "max" not in toolchain.CPUS
