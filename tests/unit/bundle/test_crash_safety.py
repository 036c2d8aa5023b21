"""A failure or a kill at any step leaves the old bundle, the new one, or nothing; the next export tidies up."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helium_edge import durable
from helium_edge.errors import HeliumEdgeError, ResourceError, UsageError
from tests.unit.bundle.bundles import names, raise_, weight, write_bundle
from tests.unit.bundle.faults import Faults

ERRORS = {
    "no space": lambda: raise_(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    "input/output": lambda: raise_(OSError(errno.EIO, os.strerror(errno.EIO))),
    "interrupt": lambda: raise_(KeyboardInterrupt()),
}


def operations(tmp_path: Path, *, force: bool) -> int:
    """How many file operations an undisturbed export takes."""
    out = tmp_path / "counting" / "b"
    if force:
        write_bundle(out)
    with pytest.MonkeyPatch.context() as patch:
        faults = Faults(patch, 0, lambda: None)
        write_bundle(out, force=force)
    return faults.count


@pytest.mark.parametrize(
    ("error", "after"),
    [("no space", False), ("input/output", False), ("interrupt", False), ("interrupt", True)],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_failure_at_any_step_leaves_the_old_the_new_or_nothing(
    tmp_path: Path, rename_kind: str, force: bool, error: str, after: bool
) -> None:
    total = operations(tmp_path, force=force)
    assert total > 10
    seen = set()
    for step in range(1, total + 1):
        root = tmp_path / str(step)
        root.mkdir()
        out = root / "made" / "b"
        if force:
            write_bundle(out, weight=1)
        with pytest.MonkeyPatch.context() as patch:
            faults = Faults(patch, step, ERRORS[error], after=after)
            if error != "interrupt" and step == total:
                # The sync of the new name: the bundle is there and whole, so that is no failure.
                write_bundle(out, force=force, weight=2)
            else:
                with pytest.raises(KeyboardInterrupt if error == "interrupt" else HeliumEdgeError) as caught:
                    write_bundle(out, force=force, weight=2)
                if error == "no space":
                    assert isinstance(caught.value, ResourceError)
            assert faults.count >= step
        found = weight(out) if out.exists() else 0
        assert found or not force
        seen.add(found)
        if found:
            assert names(out.parent) == ["b"]
        else:
            assert names(root) == [], f"step {step}"
    # The last step, after the rename, leaves the new bundle; without it the loop has proved nothing.
    assert seen == {1 if force else 0, 2}


@pytest.mark.parametrize("mode", ["new", "force", "force-in-two-steps"])
def test_after_a_kill_at_any_step_the_next_export_finds_its_way(tmp_path: Path, mode: str) -> None:
    command = [sys.executable, "-m", "tests.unit.bundle.kill_loop", str(tmp_path), mode]
    subprocess.run(command, check=True, cwd=Path(__file__).parents[3])
    runs = list(tmp_path.iterdir())
    assert len(runs) > 10
    leftovers, states = 0, set()
    for root in runs:
        out = root / "b"
        leftovers += len([path for path in root.iterdir() if path != out]) if root.exists() else 0
        state = weight(out) if out.exists() else 0
        states.add(state)
        # Between the two renames of the two-step swap there is no bundle; it must come back.
        restored = mode == "force-in-two-steps" and state == 0
        if restored:
            with pytest.raises(UsageError, match="exists"):
                write_bundle(out, weight=3)
            assert weight(out) == 1
        assert weight(write_bundle(out, force=True, weight=3)) == 3
        assert names(root) == ["b"]
    assert leftovers > 5
    assert states == {"new": {0, 2}, "force": {1, 2}, "force-in-two-steps": {0, 1, 2}}[mode]


def test_a_failing_undo_keeps_the_old_bundle_for_the_next_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = write_bundle(tmp_path / "b", weight=1)
    renames = []
    rename = os.rename

    def once(source: Path, target: Path) -> None:
        renames.append((source, target))
        if len(renames) > 1:
            raise OSError(errno.EIO, "broken")
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "_renameat2", lambda: None)
        patch.setattr(os, "rename", once)
        with pytest.raises(ResourceError, match="broken"):
            write_bundle(out, force=True, weight=2)
    assert not out.exists()
    with pytest.raises(UsageError, match="exists"):
        write_bundle(out, weight=2)
    assert weight(out) == 1
    assert names(tmp_path) == ["b"]
