"""Work on local files asks nobody anything, and leaves nothing outside its folders and HELIUM_EDGE_CACHE."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.commands import clean_environment

COMMANDS = """\
import sys
from helium_edge.cli.main import run
for command in (
    ["export", "helium-tiny", "--recipe", "onnx-int4", "-o", "bundle"],
    ["verify", "bundle"],
    ["inspect", "bundle"],
    ["generate", "bundle", "The device", "--max-new-tokens", "4"],
    ["parity", "bundle", "--tokens", "50", "--html", "page.html"],
    ["bench", "bundle", "--context", "0", "--prefill", "8", "--repeats", "2", "--loads", "1"],
):
    if run(command) != 0:
        sys.exit(f"{command} failed")
"""
_INTERNET = re.compile(r"\b(?:AF_INET6?|PF_INET6?)\b")


def test_no_library_may_report_home() -> None:
    """The variables are there before any library is loaded, and whoever has set them keeps them."""
    names = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
    program = f"import helium_edge, os; print(*[os.environ[name] for name in {names}])"
    environment = {name: value for name, value in os.environ.items() if name not in names}
    for given, expected in (({}, "1 1"), ({names[0]: "0"}, "0 1")):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**environment, **given},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected


@pytest.mark.full
def test_every_command_stays_on_this_machine(tmp_path: Path) -> None:
    home, cache, work = (tmp_path / name for name in ("home", "cache", "work"))
    for folder in (home, cache, work):
        folder.mkdir()
    environment = clean_environment(HOME=str(home), HELIUM_EDGE_CACHE=str(cache))
    for name in ("ORT_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "HF_HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR"):
        environment.pop(name, None)
    trace = tmp_path / "trace"
    strace = shutil.which("strace")
    tracer = [strace, "-f", "-qq", "--seccomp-bpf", "-e", "trace=network", "-o", str(trace)] if strace else []
    program = [*tracer, sys.executable, "-c", COMMANDS]
    done = subprocess.run(program, env=environment, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in work.iterdir()) == ["bundle", "page.html"]
    assert [str(path.relative_to(home)) for path in home.rglob("*")] == []
    if strace is None:
        pytest.skip("strace is not installed: the network was not watched")
    calls = trace.read_text(encoding="utf-8", errors="replace").splitlines()
    assert [line for line in calls if _INTERNET.search(line)] == []
