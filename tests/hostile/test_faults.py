"""An export in which a write, sync, rename or new folder goes wrong: nothing half-written, the right code."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from helium_edge.bundle import verify_bundle
from tests.hostile.case import FULL, OK, USAGE, Sandbox, snapshot
from tests.hostile.client import Commands

CODES = {
    errno.ENOSPC: FULL,
    errno.EIO: FULL,
    errno.EFBIG: FULL,
    errno.EDQUOT: FULL,
    errno.EROFS: USAGE,
    errno.EACCES: USAGE,
}


def spread(total: int, points: int) -> list[int]:
    """At most `points` of the numbers 1 to `total`, evenly, both ends among them."""
    if points >= total:
        return list(range(1, total + 1))
    return sorted({1 + round(index * (total - 1) / (points - 1)) for index in range(points)})


def published(renames: Sequence[Sequence[str]]) -> bool:
    """Whether the bundle has been given its name."""
    return any(Path(new).name == "out" for _, new in renames)


def argv(box: Sandbox, *, force: bool) -> list[str]:
    return [*box.export(recipe="onnx-int4", out="made/out"), *(["--force"] if force else [])]


def prepare(root: Path, *, force: bool) -> Sandbox:
    """A checkpoint and, with `force`, another bundle where the export is to go."""
    root.mkdir()
    box = Sandbox(root)
    box.checkpoint()
    if force:
        (root / "made").mkdir()
        box.bundle("made/out")
    return box


def count(commands: Commands, root: Path, *, force: bool = False) -> int:
    """Operations of an undisturbed export."""
    ending = commands.run(argv(prepare(root, force=force), force=force), root, fault={})
    assert ending.code == OK
    return ending.operations


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("lasting", [False, True])
def test_a_fault_at_any_operation_of_an_export(
    commands: Commands, tmp_path: Path, pytestconfig: pytest.Config, force: bool, lasting: bool
) -> None:
    total = count(commands, tmp_path / "count", force=force)
    assert total > 60
    numbers = list(CODES)
    for index, at in enumerate(spread(total, pytestconfig.getoption("--fault-points") // 2)):
        root = tmp_path / str(at)
        box = prepare(root, force=force)
        before = snapshot(root)
        number = numbers[index % len(numbers)]
        ending = commands.run(argv(box, force=force), root, fault={"at": at, "what": number, "lasting": lasting})
        assert ending.problems() == [], at
        after = snapshot(root)
        if ending.code == OK:
            # What follows the rename is not what the user asked for; and a folder that is there already may
            # fail to be made.
            assert published(ending.renames) or (ending.struck == "mkdir" and not lasting)
            verify_bundle(root / "made" / "out")
            continue
        assert ending.code == CODES[number], (at, ending.stderr)
        assert after == before, (at, number)


def test_everything_is_written_beside_the_target(commands: Commands, tmp_path: Path) -> None:
    """A rename between file systems is no rename: it fails, or copies."""
    box = Sandbox(tmp_path)
    box.checkpoint()
    (tmp_path / "temporary").mkdir()
    ending = commands.run(
        argv(box, force=False), tmp_path, fault={}, environment={"TMPDIR": str(tmp_path / "temporary")}
    )
    assert ending.code == OK
    assert ending.renames
    assert all(Path(old).parent == Path(new).parent for old, new in ending.renames)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.parametrize("kilobytes", [8, 60, 150])
def test_a_disk_that_is_full(commands: Commands, tmp_path: Path, kilobytes: int) -> None:
    """A real one where a small file system can be mounted; else the limit that every user may set."""
    box = Sandbox(tmp_path)
    box.checkpoint()
    made = tmp_path / "made"
    made.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(made)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        settings = {} if mounted else {"file_size": kilobytes << 7}
        ending = commands.run(argv(box, force=False), tmp_path, **settings)
        assert ending.problems() == []
        assert ending.code == FULL, ending.stderr
        assert list(made.iterdir()) == []
    finally:
        if mounted:
            subprocess.run(["umount", str(made)], check=True)
