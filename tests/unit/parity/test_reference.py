"""The reference runner against `HeliumForCausalLM` itself, and its refusals."""

from __future__ import annotations

import dataclasses
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from helium_edge.checkpoint import open_checkpoint
from helium_edge.errors import CacheFullError, CheckpointError, MissingDependencyError, UsageError
from helium_edge.parity import reference_runner, require_reference
from helium_edge.parity.reference import check_frequencies
from helium_edge.recipe import Gates
from helium_edge.runtime.runner import Logits
from helium_edge.texts import Window
from tests.helpers.checkpoints import make_checkpoint
from tests.unit.parity.levels import run_level

CACHE_LEN = 64
TOKENS = [1, *np.random.default_rng(0).integers(4, 160, 40).tolist()]


def direct(folder: Path, tokens: list[int]) -> Logits:
    """One forward pass without a cache, (T, V)."""
    model = transformers.HeliumForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    with torch.inference_mode():
        return model.eval()(torch.tensor([tokens]), use_cache=False).logits[0].numpy()


def relative(found: Logits, expected: Logits) -> float:
    """max |difference| over rms(expected)."""
    return float(np.abs(found - expected).max() / np.sqrt((expected**2).mean()))


def assert_float32_equal(found: Logits, expected: Logits) -> None:
    """Equal to rounding: 1e-5 for the rms of the difference, 5e-5 for the largest one, both over rms(expected).

    Measured over four seeds of the tiny checkpoint: rms 1.0e-6 to 1.3e-6, largest 7e-6 to 1.3e-5. A limit of
    1e-5 on the largest would be below float32's own noise: the one-pass model is off by 6e-6 to 2.1e-5 from itself
    in float64.
    """
    assert found.shape == expected.shape
    assert np.sqrt(((found - expected) ** 2).mean() / (expected**2).mean()) <= 1e-5
    assert relative(found, expected) <= 5e-5


@pytest.fixture(scope="module")
def expected(tiny_checkpoint: Path) -> Logits:
    return direct(tiny_checkpoint, TOKENS)


def test_prefill_and_decode(tiny_checkpoint: Path, expected: Logits) -> None:
    runner = reference_runner(open_checkpoint(str(tiny_checkpoint)), CACHE_LEN)
    assert (runner.vocab_size, runner.cache_len, runner.position) == (160, CACHE_LEN, 0)
    rows = [runner.prefill(TOKENS[:9]), runner.prefill(TOKENS[9:16])]
    assert [row.shape for row in rows] == [(9, 160), (7, 160)]
    assert runner.position == 16
    rows += [runner.decode(token)[None] for token in TOKENS[16:]]
    assert runner.position == len(TOKENS)
    found = np.concatenate(rows)
    assert found.dtype == np.float32
    assert_float32_equal(found, expected)


def test_wrong_history_would_show(tiny_checkpoint: Path, expected: Logits) -> None:
    """The tolerance above means something: one token missing from the cache is far outside."""
    runner = reference_runner(open_checkpoint(str(tiny_checkpoint)), CACHE_LEN)
    runner.prefill(TOKENS[1:16])
    assert relative(runner.decode(TOKENS[16]), expected[16]) > 0.1


def test_last_row_only(tiny_checkpoint: Path, expected: Logits) -> None:
    runner = reference_runner(open_checkpoint(str(tiny_checkpoint)), CACHE_LEN, logits="last")
    row = runner.prefill(TOKENS[:9])
    assert row.shape == (1, 160)
    assert_float32_equal(row[0], expected[8])


def test_reset_forgets(tiny_checkpoint: Path) -> None:
    runner = reference_runner(open_checkpoint(str(tiny_checkpoint)), CACHE_LEN)
    first = runner.prefill(TOKENS[:9])
    runner.decode(5)
    runner.reset()
    assert runner.position == 0
    np.testing.assert_array_equal(runner.prefill(TOKENS[:9]), first)


def test_it_goes_back(tiny_checkpoint: Path, expected: Logits) -> None:
    runner = reference_runner(open_checkpoint(str(tiny_checkpoint)), CACHE_LEN, logits="last")
    runner.prefill([*TOKENS[:20], 7, 8, 9])
    runner.seek(20)
    assert runner.position == 20
    assert_float32_equal(runner.prefill_rows(TOKENS[20:]), expected[20:])
    runner.seek(0)
    assert_float32_equal(runner.prefill(TOKENS), expected[-1:])
    with pytest.raises(CacheFullError, match="position 42 is outside"):
        runner.seek(42)


def test_logits_belong_to_the_caller(tiny_checkpoint: Path) -> None:
    runner = reference_runner(open_checkpoint(str(tiny_checkpoint)), CACHE_LEN)
    row = runner.decode(1)
    before = row.copy()
    row += 1
    runner.reset()
    np.testing.assert_array_equal(runner.decode(1), before)


@pytest.mark.parametrize("spelling", ["4.x", "5.x"])
def test_theta_in_both_spellings(spelling: str, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", spelling=spelling, rope_theta=500.0)  # type: ignore[arg-type]
    runner = reference_runner(open_checkpoint(str(folder)), CACHE_LEN)
    readable = make_checkpoint(tmp_path / "readable", rope_theta=500.0)  # by every transformers, as it is
    other = make_checkpoint(tmp_path / "other")
    found = runner.prefill(TOKENS)
    assert_float32_equal(found, direct(readable, TOKENS))
    assert relative(found, direct(other, TOKENS)) > 0.1


def test_refuses_another_theta(tiny_checkpoint: Path) -> None:
    """What transformers 4 does with a config of transformers 5: the default theta, silently."""
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    config = dataclasses.replace(checkpoint.config, rope_theta=500.0)
    with pytest.raises(CheckpointError, match=r"rope_theta = 500 in config\.json"):
        reference_runner(dataclasses.replace(checkpoint, config=config), CACHE_LEN)


def test_frequencies_rounded_to_bfloat16_are_refused(tiny_checkpoint: Path) -> None:
    config = open_checkpoint(str(tiny_checkpoint)).config
    exact = 1.0 / (config.rope_theta ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim))
    check_frequencies(exact, config, "tiny")
    with pytest.raises(CheckpointError, match="tiny: the RoPE frequencies"):
        check_frequencies(exact.bfloat16().float(), config, "tiny")
    with pytest.raises(CheckpointError, match="tiny: the RoPE frequencies"):
        check_frequencies(exact[:-1], config, "tiny")


def test_refuses_tokens(tiny_checkpoint: Path) -> None:
    runner = reference_runner(open_checkpoint(str(tiny_checkpoint)), 10)
    runner.prefill(TOKENS[:9])
    with pytest.raises(CacheFullError, match="2 tokens do not fit"):
        runner.prefill([5, 6])
    with pytest.raises(UsageError, match="160"):
        runner.decode(160)
    assert runner.position == 9
    runner.decode(5)
    with pytest.raises(CacheFullError):
        runner.decode(5)


def test_missing_transformers(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    require_reference()
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependencyError, match=r"parity needs the package transformers") as caught:
        reference_runner(checkpoint, CACHE_LEN)
    assert caught.value.exit_code == 5
    assert ".[reference]" in caught.value.hint
    with pytest.raises(MissingDependencyError):
        require_reference()


def test_load_failure_is_one_line(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(make_checkpoint(tmp_path / "m")))
    (tmp_path / "m" / "model.safetensors").write_bytes(b"gone")
    with pytest.raises(CheckpointError, match=r"^m: transformers [45]\.\S+ cannot load it: ") as caught:
        reference_runner(checkpoint, CACHE_LEN)
    assert "\n" not in str(caught.value)


def test_weights_that_would_be_made_up(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m")
    checkpoint = open_checkpoint(str(folder))
    make_checkpoint(folder, num_hidden_layers=1)
    make_config = make_checkpoint(tmp_path / "two")
    (folder / "config.json").write_bytes((make_config / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"no weights for model\.layers\.1\.\S+ and \d+ more"):
        reference_runner(checkpoint, CACHE_LEN)


def test_quiet(tiny_checkpoint: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    log = transformers.utils.logging
    found = (log.get_verbosity(), log.is_progress_bar_enabled())
    log.set_verbosity(logging.INFO)
    try:
        with caplog.at_level(logging.DEBUG):
            reference_runner(open_checkpoint(str(tiny_checkpoint)), CACHE_LEN)
        assert capfd.readouterr() == ("", "")
        assert (log.get_verbosity(), log.is_progress_bar_enabled()) == (logging.INFO, found[1])
    finally:
        log.set_verbosity(found[0])


def test_parity_with_itself(tiny_checkpoint: Path) -> None:
    """Prefill plus decode against pieces of prefill: float32 noise, within the gates of fp32."""
    checkpoint = open_checkpoint(str(tiny_checkpoint))
    report = run_level(
        reference_runner(checkpoint, CACHE_LEN, logits="last"),
        reference_runner(checkpoint, CACHE_LEN),
        [Window("en", tuple(TOKENS)), Window("fr", tuple(reversed(TOKENS)))],
        gates=Gates(mean_kld=1e-7, top1=0.9999, ppl_ratio=1.00001, max_logit_error=1e-4),
        prefill_tokens=8,
    )
    assert report.passed, report.failures
    assert report.overall.max_logit_error > 0
