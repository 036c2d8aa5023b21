"""An export that is killed, interrupted or ended: old bundle, new bundle, or none; and the next one succeeds."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from helium_edge.bundle import verify_bundle
from tests.hostile.case import OK, Sandbox
from tests.hostile.client import Commands, Ending
from tests.hostile.test_faults import argv, count, prepare, spread


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def whole(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, bytes]]:
    """Operations of an undisturbed export, and what it writes."""
    root = tmp_path_factory.mktemp("whole") / "root"
    return count(commands, root), content(root / "made" / "out")


def check(commands: Commands, box: Sandbox, expected: dict[str, bytes], *, force: bool) -> None:
    """What must hold after whatever happened, and that the next export tidies up and succeeds."""
    out = box.root / "made" / "out"
    assert out.exists() or not force
    if out.exists():
        verify_bundle(out)
    ending = commands.run(argv(box, force=True), box.root)
    assert (ending.code, ending.problems()) == (OK, []), ending.stderr
    assert content(out) == expected
    assert sorted(path.name for path in box.root.iterdir()) == ["made", "model"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_kill_at_any_operation(
    commands: Commands,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    whole: tuple[int, dict[str, bytes]],
    force: bool,
) -> None:
    total, expected = count(commands, tmp_path / "count", force=force), whole[1]
    for at in spread(total, max(2, pytestconfig.getoption("--kill-points") // 2)):
        box = prepare(tmp_path / str(at), force=force)
        ending = commands.run(argv(box, force=force), box.root, fault={"at": at, "what": "kill"})
        assert ending.signal == signal.SIGKILL
        check(commands, box, expected, force=force)


def test_kill_at_any_time(
    commands: Commands, tmp_path: Path, pytestconfig: pytest.Config, whole: tuple[int, dict[str, bytes]]
) -> None:
    """Also between the operations, and within what is not Python's."""
    draw = random.Random(pytestconfig.getoption("--hostile-seed"))
    for index in range(pytestconfig.getoption("--kill-points") // 2):
        box = prepare(tmp_path / str(index), force=True)
        commands.run(argv(box, force=True), box.root, limit_seconds=draw.uniform(0, 0.8))
        check(commands, box, whole[1], force=True)


@pytest.mark.parametrize("what", ["interrupt", "terminate"])
def test_signals_that_ask(
    commands: Commands, tmp_path: Path, whole: tuple[int, dict[str, bytes]], what: str
) -> None:
    total, expected = whole
    for at in spread(total, 3):
        box = prepare(tmp_path / str(at), force=False)
        ending: Ending = commands.run(argv(box, force=False), box.root, fault={"at": at, "what": what})
        assert ending.code == {"interrupt": 130, "terminate": 143}[what], ending
        # The quantized weights stay for the next run (docs/adr/0005); nothing else does.
        made = box.root / "made"
        left = [path.name for path in made.iterdir()] if made.exists() else []
        assert set(left) <= {".out.store", "out"}
        check(commands, box, expected, force=False)


def test_resuming_with_another_input(
    commands: Commands, tmp_path: Path, whole: tuple[int, dict[str, bytes]]
) -> None:
    total, expected = whole
    box = prepare(tmp_path / "resumed", force=False)
    commands.run(argv(box, force=False), box.root, fault={"at": total // 2, "what": "kill"})
    assert list((box.root / "made").glob(".out.store/*.safetensors"))
    box.checkpoint(seed=1)
    fresh = prepare(tmp_path / "fresh", force=False)
    fresh.checkpoint(seed=1)
    for each in (box, fresh):
        assert commands.run(argv(each, force=False), each.root).code == OK
    out, other = (content(each.root / "made" / "out") for each in (box, fresh))
    assert out == other
    assert out["weights.bin"] != expected["weights.bin"]
