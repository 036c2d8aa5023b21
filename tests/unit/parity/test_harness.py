"""The reference's logits: the model is loaded when they are not known, once, and let go of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helium_edge.errors import ParityError
from helium_edge.parity import Clock, LogitsStore, Reference
from helium_edge.parity.greedy import NEW_TOKENS, Prompt
from helium_edge.texts import Window
from tests.helpers.progress import Recorder
from tests.unit.parity.fakes import VOCAB, FakeRunner, true_row

WINDOWS = [Window("en", tuple(range(1, 30))), Window("fr", tuple(range(3, 40)))]
PROMPTS = [Prompt("en", (1, 2, 3))]


class Loads:
    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> FakeRunner:
        self.count += 1
        return FakeRunner(logits="all")


def prepared(folder: Path | None, load: Loads) -> Reference:
    reference = Reference(LogitsStore(folder, {}), load, VOCAB, Clock())
    progress = Recorder()
    reference.prepare(WINDOWS, PROMPTS, progress)
    assert sum(progress.amounts) == sum(len(window.tokens) - 1 for window in WINDOWS)
    return reference


@pytest.mark.parametrize("on_disk", [True, False])
def test_the_model_is_loaded_once(tmp_path: Path, on_disk: bool) -> None:
    load = Loads()
    reference = prepared(tmp_path if on_disk else None, load)
    assert (load.count, reference.loaded) == (1, True)
    tokens = WINDOWS[1].tokens[:-1]
    np.testing.assert_array_equal(
        reference.rows(tokens), [true_row(tokens[: end + 1]) for end in range(len(tokens))]
    )
    assert reference.greedy(PROMPTS[0].tokens, NEW_TOKENS).shape == (NEW_TOKENS, VOCAB)
    assert load.count == 1


def test_a_second_run_needs_no_model(tmp_path: Path) -> None:
    prepared(tmp_path, Loads())
    load = Loads()
    assert not prepared(tmp_path, load).loaded
    assert load.count == 0


def test_another_vocabulary(tmp_path: Path) -> None:
    reference = Reference(LogitsStore(tmp_path, {}), Loads(), VOCAB + 1, Clock())
    with pytest.raises(ParityError, match=f"vocabulary of {VOCAB + 1}, the reference of {VOCAB}"):
        reference.prepare(WINDOWS, ())
    assert list(tmp_path.iterdir()) == []


def test_logits_that_vanish_are_said_to(tmp_path: Path) -> None:
    reference = prepared(tmp_path, Loads())
    for file in tmp_path.iterdir():
        file.unlink()
    with pytest.raises(ParityError, match="removed from the cache"):
        reference.rows(WINDOWS[0].tokens[:-1])
