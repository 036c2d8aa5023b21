"""A bundle to a phone over adb: what is there is left, what was cut off goes on.

A file is appended to `NAME.part` on the phone, checked there by its sha256, and renamed. The manifest goes last,
and the old one is removed first, so that the app never takes something half-written, or of two bundles, for one.
"""

from __future__ import annotations

import hashlib
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from helium_edge.bundle import MANIFEST_NAME, Bundle
from helium_edge.errors import BundleError, MissingToolError, ResourceError, UsageError
from helium_edge.hub import snapshot_identity
from helium_edge.progress import Progress

APP_ID = "dev.heliumedge.app"
ACTIVITY = f"{APP_ID}/.MainActivity"
# Takes orders to load a bundle and to measure it; only the shell may start it.
BENCHMARK_ACTIVITY = f"{APP_ID}/.BenchmarkOrders"
# How long a fresh app may take to make its folder.
_FOLDER_SECONDS = 5
BUNDLES = f"/sdcard/Android/data/{APP_ID}/files/bundles"
"""The app's own folder on shared storage: adb may write it, the app may map it, and no permission is needed."""

Action = Literal["send", "resume", "there"]

DEVICES_SECONDS = 30.0
SHELL_SECONDS = 600.0
"""What adb may take to answer: to list devices, and for a command, of which hashing a bundle is the longest."""

_PIECE = 1 << 20


@dataclass(frozen=True)
class Step:
    """What happens to one file.

    Args:
        path: In the bundle.
        nbytes: Its size.
        sha256: Its hash.
        action: `there` when the phone has it, `resume` when it has the beginning, else `send`.
        present: Bytes that the phone has already.
    """

    path: str
    nbytes: int
    sha256: str
    action: Action
    present: int = 0

    @property
    def remaining(self) -> int:
        """Bytes to send."""
        return self.nbytes - self.present


class Adb:
    """The adb program and one device.

    Args:
        serial: Of the device; None takes the only one.

    Raises:
        MissingToolError: adb is not installed.
        UsageError: No device, several, or one that does not allow it.
    """

    def __init__(self, serial: str | None = None) -> None:
        program = shutil.which("adb")
        if program is None:
            raise MissingToolError(
                "pushing needs adb, which is not installed",
                hint="apt-get install adb, or install Android's platform tools; --dry-run does without",
            )
        self._program = program
        self.serial = _choose(_devices(program), serial)

    def shell(self, script: str) -> str:
        """Run a script on the device and return what it prints; its exit code and stderr do not matter.

        Raises:
            MissingToolError: The device is gone.
        """
        try:
            done = subprocess.run(
                [self._program, "-s", self.serial, "shell", script],
                capture_output=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=SHELL_SECONDS,
            )
        except subprocess.TimeoutExpired as late:
            raise self._lost(f"no answer within {SHELL_SECONDS:.0f} s") from late
        error = done.stderr.decode("utf-8", "replace")
        if done.returncode and error.startswith(("error:", "adb:")):
            raise self._lost(error)
        return done.stdout.decode("utf-8", "replace").replace("\r\n", "\n")

    def append(self, source: Path, skip: int, target: str, progress: Progress) -> None:
        """Append the bytes of a file from `skip` on to a file of the device.

        Raises:
            MissingToolError: The device is gone; what arrived stays, for the next time.
        """
        command = [self._program, "-s", self.serial, "exec-in", f"cat >> {shlex.quote(target)}"]
        with (
            source.open("rb") as file,
            subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process,
        ):
            assert process.stdin is not None
            assert process.stderr is not None
            file.seek(skip)
            try:
                while piece := file.read(_PIECE):
                    process.stdin.write(piece)
                    progress.advance(len(piece), source.name)
                process.stdin.close()
            except OSError as error:
                raise self._lost(process.stderr.read().decode("utf-8", "replace") or str(error)) from error
            message = process.stderr.read().decode("utf-8", "replace")
        if process.returncode:
            raise self._lost(message)

    def _lost(self, message: str) -> MissingToolError:
        first = message.strip().partition("\n")[0] or "the connection ended"
        return MissingToolError(
            f"adb lost the device {self.serial}: {first}", hint="connect it and run the same command: it goes on"
        )


def _devices(program: str) -> dict[str, str]:
    """State of each device by serial."""
    try:
        done = subprocess.run(
            [program, "devices"],
            capture_output=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=DEVICES_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise MissingToolError(
            f"adb does not answer within {DEVICES_SECONDS:.0f} s",
            hint="`adb kill-server`, and connect the device again",
        ) from error
    lines = [line.split("\t") for line in done.stdout.decode("utf-8", "replace").splitlines()]
    return {words[0]: words[1].strip() for words in lines if len(words) == 2}


def _choose(devices: dict[str, str], serial: str | None) -> str:
    if not devices:
        raise UsageError(
            "no device is connected", hint="connect one, switch on USB debugging, and look at `adb devices`"
        )
    if serial is None and len(devices) > 1:
        raise UsageError(
            f"{len(devices)} devices are connected", hint=f"name one: --serial {' | '.join(sorted(devices))}"
        )
    chosen = serial or next(iter(devices))
    state = devices.get(chosen)
    if state is None:
        raise UsageError(f"no device {chosen} is connected", hint=f"connected: {', '.join(sorted(devices))}")
    if state != "device":
        raise UsageError(
            f"the device {chosen} is {state}", hint="unlock it and allow USB debugging for this computer"
        )
    return chosen


def target_folder(bundle: Bundle, name: str | None = None) -> str:
    """Where a bundle goes on the phone: a folder named as the bundle's own, or its repository on the Hub.

    Raises:
        UsageError: A name that is no plain folder name.
    """
    identity = snapshot_identity(bundle.folder)
    own = bundle.folder.resolve().name if identity is None else identity[0].rpartition("/")[2]
    chosen = own if name is None else name
    if not chosen or chosen.startswith(".") or PurePosixPath(chosen).name != chosen or not chosen.isprintable():
        raise UsageError(f"{chosen!r} is no folder name", hint="name one with --name, such as tiny")
    return f"{BUNDLES}/{chosen}"


def plan(bundle: Bundle, adb: Adb | None, target: str) -> list[Step]:
    """Compare a bundle with what a device has.

    Args:
        bundle: The bundle.
        adb: The device, or None: then nothing is there.
        target: Its folder on the device.

    Returns:
        A step for each file, the manifest last.

    Raises:
        MissingToolError: The device is gone.
    """
    manifest = (bundle.folder / MANIFEST_NAME).read_bytes()
    wanted = [(entry.path, entry.bytes, entry.sha256) for entry in bundle.manifest.files]
    wanted.append((MANIFEST_NAME, len(manifest), hashlib.sha256(manifest).hexdigest()))
    sizes = {} if adb is None else _sizes(adb, target)
    complete = [path for path, nbytes, _ in wanted if sizes.get(path) == nbytes]
    hashes = (
        {}
        if adb is None
        else _hashes(
            adb, target, [*complete, *(f"{path}.part" for path, _, _ in wanted if sizes.get(f"{path}.part"))]
        )
    )
    return [_step(bundle.folder / path, path, nbytes, sha256, sizes, hashes) for path, nbytes, sha256 in wanted]


def _step(file: Path, path: str, nbytes: int, sha256: str, sizes: dict[str, int], hashes: dict[str, str]) -> Step:
    if hashes.get(path) == sha256:
        return Step(path, nbytes, sha256, "there", nbytes)
    part = f"{path}.part"
    begun = sizes.get(part, 0)
    if 0 < begun <= nbytes and hashes.get(part) == _prefix_hash(file, begun):
        return Step(path, nbytes, sha256, "resume", begun)
    return Step(path, nbytes, sha256, "send")


def _prefix_hash(file: Path, length: int) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while length > 0 and (piece := source.read(min(_PIECE, length))):
            digest.update(piece)
            length -= len(piece)
    return digest.hexdigest()


def _sizes(adb: Adb, target: str) -> dict[str, int]:
    text = adb.shell(f"cd {shlex.quote(target)} && find . -type f -exec stat -c '%s %n' {{}} +")
    found = {}
    for line in text.splitlines():
        nbytes, _, path = line.partition(" ")
        if nbytes.isdigit():
            found[path.removeprefix("./")] = int(nbytes)
    return found


def _hashes(adb: Adb, target: str, paths: Sequence[str]) -> dict[str, str]:
    if not paths:
        return {}
    text = adb.shell(f"cd {shlex.quote(target)} && sha256sum {' '.join(map(shlex.quote, paths))}")
    pairs = (line.split(None, 1) for line in text.splitlines())
    return {pair[1].removeprefix("*"): pair[0] for pair in pairs if len(pair) == 2}


def push(bundle: Bundle, adb: Adb, target: str, steps: Sequence[Step], progress: Progress) -> None:
    """Send what is missing.

    Raises:
        BundleError: A file arrived with another content: it changed meanwhile, or the connection is faulty.
        MissingToolError: The device is gone; the next push goes on.
        ResourceError: The device has too little space.
    """
    missing = [step for step in steps if step.action != "there"]
    if not missing:
        return
    _check_space(adb, target, sum(step.remaining for step in missing))
    folders = sorted({str(PurePosixPath(target, step.path).parent) for step in missing})
    _first_start(adb, target)
    adb.shell(f"mkdir -p {' '.join(map(shlex.quote, folders))}; rm -f {shlex.quote(f'{target}/{MANIFEST_NAME}')}")
    for step in [*missing, *(step for step in steps[-1:] if step.action == "there")]:
        _send(bundle, adb, target, step, progress)


def _first_start(adb: Adb, target: str) -> None:
    """Let the app make its folder itself: Android 11 and later may not let it read one that the shell made."""
    parent = shlex.quote(str(PurePosixPath(target).parent))
    if adb.shell(f"[ -d {parent} ] && echo there").strip():
        return
    if not adb.shell(f"pm path {APP_ID}").startswith("package:"):
        return
    adb.shell(f"am start -W -n {ACTIVITY}")
    for _ in range(_FOLDER_SECONDS):
        if adb.shell(f"[ -d {parent} ] || {{ sleep 1; echo missing; }}").strip() == "":
            return


def _send(bundle: Bundle, adb: Adb, target: str, step: Step, progress: Progress) -> None:
    part = f"{target}/{step.path}.part"
    skip = step.present if step.action == "resume" else 0
    if skip == 0:
        adb.shell(f"rm -f {shlex.quote(part)}")
    adb.append(bundle.folder / step.path, skip, part, progress)
    name = f"{step.path}.part"
    if _hashes(adb, target, [name]).get(name) != step.sha256:
        adb.shell(f"rm -f {shlex.quote(part)}")
        raise BundleError(
            f"{step.path}: arrived with another sha256",
            hint="push again; if it persists, try another cable or port",
        )
    adb.shell(f"mv -f {shlex.quote(part)} {shlex.quote(f'{target}/{step.path}')}")


def _check_space(adb: Adb, target: str, needed: int) -> None:
    # The folder may not be there yet, one above it is.
    text = adb.shell(f'd={shlex.quote(target)}; while [ ! -d "$d" ]; do d=$(dirname "$d"); done; df -k "$d"')
    words = text.strip().splitlines()[-1].split() if text.strip() else []
    if len(words) >= 4 and words[3].isdigit() and int(words[3]) * 1024 < needed:
        raise ResourceError(
            f"the device has {int(words[3]) * 1024} bytes free, {needed} are needed", hint="free some space on it"
        )


def launch(adb: Adb, target: str) -> bool:
    """Start the app with a bundle; false when the app is not installed.

    Raises:
        MissingToolError: The device is gone.
    """
    if not adb.shell(f"pm path {APP_ID}").startswith("package:"):
        return False
    name = PurePosixPath(target).name
    return "Error" not in adb.shell(f"am start -n {BENCHMARK_ACTIVITY} --es bundle {shlex.quote(name)}")
