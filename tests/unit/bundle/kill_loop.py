"""Export into ROOT/1, ROOT/2, ... and kill the exporter at its 1st, 2nd, ... file operation, until it survives.

Usage: python -m tests.unit.bundle.kill_loop ROOT {new|force|force-in-two-steps}
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from helium_edge import durable
from tests.unit.bundle.bundles import write_bundle
from tests.unit.bundle.faults import Faults


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    os.fsync = lambda descriptor: None  # counted below; a killed process loses nothing that it has written
    root, mode = Path(sys.argv[1]), sys.argv[2]
    for step in range(1, 200):
        out = root / str(step) / "b"
        if mode != "new":
            write_bundle(out, weight=1)
        child = os.fork()
        if child == 0:
            patch = pytest.MonkeyPatch()
            if mode == "force-in-two-steps":
                patch.setattr(durable, "_renameat2", lambda: None)
            Faults(patch, step, die)
            write_bundle(out, weight=2, force=mode != "new")
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            sys.exit(os.waitstatus_to_exitcode(status))
    sys.exit("the exporter never came to an end")


main()
