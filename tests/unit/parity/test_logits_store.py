"""Reference logits on disk: computed once, whole or not at all, and never more than the cache may hold."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helium_edge.errors import ResourceError, UsageError
from helium_edge.parity.logits_store import LogitsStore
from helium_edge.runtime.runner import Logits
from helium_edge.user_cache import cache_folder

ROWS, VOCAB = 10, 7


class Model:
    """Yields rows in uneven pieces and counts how often it was asked."""

    def __init__(self, seed: int = 0) -> None:
        self.rows = np.random.default_rng(seed).standard_normal((ROWS, VOCAB)).astype(np.float32)
        self.runs = 0

    def __call__(self) -> Iterator[Logits]:
        self.runs += 1
        yield self.rows[:3]
        yield self.rows[3:4]
        yield self.rows[4:]


def get(folder: Path | None, model: Model, identity: str = "a", what: int = 1) -> Logits:
    return LogitsStore(folder, {"checkpoint": identity}).get({"tokens": [what]}, ROWS, VOCAB, model)


def test_computed_once_for_a_checkpoint_and_a_text(tmp_path: Path) -> None:
    model = Model()
    for _ in range(3):
        np.testing.assert_array_equal(get(tmp_path / "new", model), model.rows)
    assert model.runs == 1
    get(tmp_path / "new", model, identity="b")
    get(tmp_path / "new", model, what=2)
    assert model.runs == 3


def test_read_from_the_disk_and_not_held(tmp_path: Path) -> None:
    assert isinstance(get(tmp_path, Model()), np.memmap)


def test_without_a_folder_nothing_is_written(tmp_path: Path) -> None:
    store, model = LogitsStore(None, {}), Model()
    for _ in range(2):
        np.testing.assert_array_equal(store.get({}, ROWS, VOCAB, model), model.rows)
    assert model.runs == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "damage", [lambda data: data[:100], lambda _: b"", lambda data: data[:-4], lambda _: b"x" * 500]
)
def test_a_damaged_file_is_computed_again(tmp_path: Path, damage: object) -> None:
    model = Model()
    get(tmp_path, model)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    np.testing.assert_array_equal(get(tmp_path, model), model.rows)
    assert model.runs == 2


def test_a_run_that_stops_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> Iterator[Logits]:
        yield Model().rows[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LogitsStore(tmp_path, {}).get({}, ROWS, VOCAB, stopped)
    assert list(tmp_path.iterdir()) == []


def test_no_space(tmp_path: Path) -> None:
    def full() -> Iterator[Logits]:
        raise OSError(errno.ENOSPC, "No space left on device")
        yield

    with pytest.raises(ResourceError, match="no space for"):
        LogitsStore(tmp_path, {}).get({}, ROWS, VOCAB, full)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        get(tmp_path / "file", Model())


def test_the_file_not_used_longest_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 4 * ROWS * VOCAB + 128
    monkeypatch.setenv("HELIUM_EDGE_CACHE_GIB", str(2.5 * size / 2**30))
    models = [Model(seed) for seed in range(3)]
    for index in (0, 1):
        get(tmp_path, models[index], what=index)
    for file in tmp_path.iterdir():
        os.utime(file, (1, 1))
    get(tmp_path, models[0], what=0)  # used again
    get(tmp_path, models[2], what=2)
    get(tmp_path, models[0], what=0)
    assert models[0].runs == 1
    get(tmp_path, models[1], what=1)
    assert models[1].runs == 2


@pytest.mark.parametrize("value", ["abc", "-1", "nan", "", "8 GiB"])
def test_a_limit_that_is_no_number_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HELIUM_EDGE_CACHE_GIB", value)
    with pytest.raises(UsageError, match="is no number of GiB"):
        LogitsStore(tmp_path, {})


def test_what_a_killed_run_left_goes(tmp_path: Path) -> None:
    old, young = (tmp_path / f".logits-{name}.npy.partial-0123abcd" for name in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"x")
    os.utime(old, (1, 1))
    LogitsStore(tmp_path, {}).get({}, 1, 4, lambda: [np.zeros((1, 4), np.float32)])
    assert not old.exists()
    assert young.exists()


def test_the_folder_is_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIUM_EDGE_CACHE", "/somewhere")
    assert cache_folder() == Path("/somewhere")
    monkeypatch.delenv("HELIUM_EDGE_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "helium-edge"
