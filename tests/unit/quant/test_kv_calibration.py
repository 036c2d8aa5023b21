"""Calibration of an int8 KV cache: scales fit what was seen at any position, and what they clip is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helium_edge.checkpoint import open_checkpoint
from helium_edge.model.decoder import HeliumDecoder
from helium_edge.model.rope import apply_rope, rope_tables
from helium_edge.model.weights import EMBEDDING
from helium_edge.quant import QuantizedStore
from helium_edge.quant.kv_calibration import HEADROOM, Saturation, _embed, calibrate, clipped
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens
from tests.helpers.progress import Recorder
from tests.unit.quant.stores import MIXED


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> QuantizedStore:
    folder = tmp_path_factory.mktemp("calibration")
    checkpoint = open_checkpoint(str(make_checkpoint(folder / "c", std=0.1, num_hidden_layers=2)))
    return QuantizedStore(checkpoint, MIXED, folder / "store")


def texts(store: QuantizedStore, count: int = 3, length: int = 40) -> list[list[int]]:
    return [random_tokens(length, store.config.vocab_size, seed=seed) for seed in range(count)]


def cached(store: QuantizedStore, tokens: list[int]) -> list[torch.Tensor]:
    """The rows that our decoder caches for a text: key and value of each layer in turn."""
    config = store.config
    decoder = HeliumDecoder(config, store, len(tokens))
    past = [torch.zeros(config.num_key_value_heads, len(tokens), config.head_dim)] * (2 * config.num_hidden_layers)
    with torch.inference_mode():
        return decoder(torch.tensor([tokens]), torch.tensor([0]), past)[1]


def test_scales_cover_the_rows_of_the_decoder(store: QuantizedStore) -> None:
    found = calibrate(store, texts(store), texts(store)[:1])
    assert found.tokens == 120
    assert found.held_out == Saturation(40, 0.0, None)
    for text in texts(store):
        for rows, scale in zip(cached(store, text), found.scales.buffers(), strict=True):
            assert not clipped(rows, scale).any()
            # With the headroom that is asked for, and, of values, no more.
            assert (rows.abs() * HEADROOM / scale).max() <= 127 * 1.01
    values = torch.stack([cached(store, text)[1].abs().amax(dim=1) for text in texts(store)]).amax(dim=0)
    assert torch.allclose(found.scales.values[0] * 127 / HEADROOM, values, rtol=2**-8)


def test_keys_fit_at_every_position(store: QuantizedStore) -> None:
    """The same keys at positions that the text did not have: RoPE turns them, and no code clips."""
    config = store.config
    scale = calibrate(store, texts(store), []).scales.side(0, "key")[:, None]
    cos, sin = rope_tables(config.rope_theta, config.head_dim, 4096)
    keys = cached(store, texts(store)[0])[0]
    assert (keys.abs() / scale).max() > 30
    for offset in (1, 77, 1000, 4000):
        turned = apply_rope(keys, cos[offset][None], sin[offset][None])
        assert not clipped(turned, scale).any()


def test_scales_are_coarse_numbers_and_the_same_each_time(store: QuantizedStore) -> None:
    first, second = (calibrate(store, texts(store), texts(store)).scales for _ in range(2))
    for ours, theirs in zip(first.buffers(), second.buffers(), strict=True):
        assert torch.equal(ours, theirs)
        assert torch.equal(ours, ours.to(torch.bfloat16).to(torch.float32))
        assert bool((ours > 0).all())


def test_what_other_text_exceeds_is_counted_by_channel(store: QuantizedStore) -> None:
    shape = (store.config.num_key_value_heads, store.config.head_dim)
    counts = [torch.zeros(shape, dtype=torch.int64) for _ in range(4)]
    counts[3][1, 5], counts[0][0, 2] = 7, 2
    found = Saturation.from_counts(counts, 100)
    assert found.share == pytest.approx(9 / (100 * 4 * shape[0] * shape[1]))
    assert str(found.worst) == "layer 1, value head 1, channel 5: 7.00% of its values"
    rows = torch.tensor([[[1.27, -1.28, 1.276, -1.286, 1.274]]]).transpose(1, 2)
    assert clipped(rows, torch.full((1, 1, 1), 0.01)).tolist() == [[2]]


def test_a_silent_channel_keeps_a_scale_of_use(store: QuantizedStore) -> None:
    from helium_edge.quant.kv_calibration import _scale

    scales = _scale(torch.tensor([[4.0, 0.0]]))
    assert scales[0, 1] == pytest.approx(float(scales[0, 0]) / 1000, rel=0.01)
    assert bool((_scale(torch.zeros(1, 2)) > 0).all())


def test_only_the_rows_that_occur_are_dequantized(store: QuantizedStore) -> None:
    for tokens, rows in zip(texts(store), _embed(store, texts(store)), strict=True):
        assert torch.equal(rows, store.dense(EMBEDDING)[torch.tensor(tokens)])


def test_the_store_is_read_a_layer_at_a_time(store: QuantizedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    original = QuantizedStore.get

    def get(self: QuantizedStore, name: str) -> object:
        read.append(name)
        return original(self, name)

    monkeypatch.setattr(QuantizedStore, "get", get)
    done: list[tuple[str, int]] = []

    class Reads(Recorder):
        def advance(self, amount: int = 1, note: str = "") -> None:
            done.append((note, len(read)))

    calibrate(store, texts(store), [], Reads())
    assert done == [("layer 0", 8), ("layer 1", 15)]
    assert len(set(read)) == len(read)
    assert Path(read[0]).name == EMBEDDING
