"""How far two oracles are apart, and the refusal of one that is not installed."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.errors import CacheFullError, MissingDependencyError, ParityError, ResourceError, UsageError
from helium_edge.parity import oracle_optimum
from helium_edge.parity.oracle_optimum import AgreementMeter, compare_oracles, optimum_runner, require_optimum
from helium_edge.runtime.runner import Logits
from tests.unit.parity.fakes import VOCAB, FakeRunner

WINDOWS = [tuple(range(1, 41)), (7,), tuple(range(5, 25))]


class Faulty(FakeRunner):
    """Off by `size` at one position of one conversation, counted from 1, as a bug in its cache would be."""

    def __init__(self, conversation: int, position: int, size: float) -> None:
        super().__init__(logits="all")
        self._at, self._size, self._conversation = (conversation, position), size, 0

    def reset(self) -> None:
        super().reset()
        self._conversation += 1

    def append(self, token: int) -> Logits:
        row = super().append(token)
        if (self._conversation, self.position - 1) == self._at:
            row[row.argmax()] -= self._size
        return row


def test_two_that_are_equal() -> None:
    found = compare_oracles(FakeRunner(logits="all"), FakeRunner(logits="all"), WINDOWS)
    assert (found.tokens, found.max_logit_error, found.top1, found.agrees) == (61, 0.0, 1.0, True)
    assert (found.first_window, found.first_position) == (None, None)
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["agrees"] is True


@pytest.mark.parametrize("position", [0, 12, 23, 24, 38, 39], ids=lambda p: f"at {p}")
def test_the_first_position_that_differs_is_named(position: int) -> None:
    found = compare_oracles(FakeRunner(logits="all"), Faulty(1, position, 100.0), WINDOWS)
    assert (found.first_window, found.first_position, found.agrees) == (0, position, False)
    assert found.top1 == 60 / 61
    row = np.asarray(FakeRunner(logits="all").prefill(WINDOWS[0])[position], dtype=np.float64)
    assert found.max_logit_error == pytest.approx(100 / np.sqrt((row**2).mean()), rel=1e-6)


def test_later_windows_count() -> None:
    found = compare_oracles(FakeRunner(logits="all"), Faulty(3, 19, 0.1), WINDOWS)
    assert (found.first_window, found.first_position) == (2, 19)


def test_the_tolerance_is_the_limit() -> None:
    wide = compare_oracles(FakeRunner(logits="all"), Faulty(1, 5, 0.1), WINDOWS, tolerance=1.0)
    assert wide.agrees
    assert 0 < wide.max_logit_error < 0.1
    assert wide.tolerance == 1.0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_differs(value: float) -> None:
    found = compare_oracles(FakeRunner(logits="all"), Faulty(1, 30, value), WINDOWS)
    assert (found.first_position, found.max_logit_error) == (30, np.inf)
    assert found.to_json()["max_logit_error"] is None


def test_pieces_add_up() -> None:
    rng = np.random.default_rng(0)
    first = rng.standard_normal((20, VOCAB)).astype(np.float32)
    second = first + np.float32(1e-5) * rng.standard_normal((20, VOCAB)).astype(np.float32)
    whole, pieces = AgreementMeter(1e-9), AgreementMeter(1e-9)
    whole.add(4, 10, first, second)
    for start in range(0, 20, 7):
        pieces.add(4, 10 + start, first[start : start + 7], second[start : start + 7])
    assert pieces.result() == whole.result()
    assert whole.result().first_position == 10


def test_refusals() -> None:
    with pytest.raises(UsageError, match="no positions"):
        AgreementMeter().result()
    with pytest.raises(ParityError, match=r"\(1, 3\) and \(1, 4\)"):
        AgreementMeter().add(0, 0, np.zeros((1, 3), np.float32), np.zeros((1, 4), np.float32))
    with pytest.raises(ParityError, match="17 rows for 40 tokens"):
        compare_oracles(FakeRunner(logits="last"), FakeRunner(logits="last"), WINDOWS)
    with pytest.raises(CacheFullError):
        compare_oracles(FakeRunner(logits="all", cache_len=30), FakeRunner(logits="all"), WINDOWS)


def test_optimum_that_is_missing(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optimum.onnxruntime", None)
    for call in (require_optimum, lambda: optimum_runner(open_checkpoint(str(tiny_checkpoint)), 64)):
        with pytest.raises(
            MissingDependencyError, match=r"needs the package optimum-onnx, which is not"
        ) as caught:
            call()
        assert ".[optimum]" in caught.value.hint


@pytest.mark.parametrize(
    ("versions", "message"),
    [
        ({"transformers": "4.57.6"}, "needs the package optimum-onnx, which"),
        ({"optimum-onnx": "0.1.0"}, "needs the package optimum-onnx, which"),
        (
            {"optimum-onnx": "0.1.0", "transformers": "5.24.0"},
            r"transformers 4\.57 \(optimum-onnx takes no 5\.24\.0\)",
        ),
        ({"optimum-onnx": "0.1.0", "transformers": "4.57.6"}, None),
    ],
    ids=["no optimum", "no transformers", "transformers 5", "both"],
)
def test_versions_that_do_not_fit(
    versions: dict[str, str], message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    if message is None:
        require_optimum()
        return
    with pytest.raises(MissingDependencyError, match=message) as caught:
        require_optimum()
    assert caught.value.exit_code == 5


def test_a_full_disk_is_seen_before_the_export(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    monkeypatch.setattr(oracle_optimum, "_DISK_SHARE", 1e15)
    with pytest.raises(ResourceError, match=r"^tiny: .* GB of temporary files, .* GB are free"):
        oracle_optimum._check_disk(checkpoint, str(tiny_checkpoint))
