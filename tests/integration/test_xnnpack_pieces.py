"""Attention over a cache in pieces: what the graph reads, when, and that it computes what the whole one does."""

from __future__ import annotations

import importlib.util
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from helium_edge.pte.file import PteFile
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.exports import random_tokens

if importlib.util.find_spec("executorch") is None:
    pytest.skip("executorch is not installed", allow_module_level=True)

from helium_edge.pte.xnnpack_schema import XNNBatchMatrixMultiply, XNNStaticSlice
from helium_edge.targets.xnnpack.anatomy import Delegate, inputs_of
from helium_edge.targets.xnnpack.decoder import PIECE_BYTES
from tests.helpers.xnnpack import XnnpackExport, export_xnnpack, pieces_of, rms_error, xnnpack_recipe

# Two query heads share a key-value head; scores are far from uniform.
MODEL: dict[str, Any] = {"seed": 8, "std": 0.2, "num_hidden_layers": 1, "num_key_value_heads": 2}
KV_SIZE = 32
BUCKET, WIDTH = 30, 6
PREFILL_LEN = 20  # whose 40 query rows are too many for pieces
# Of 48 slots the last piece has 6 with 7 each; 48 pieces are joined in three steps.
CASES = [("float32", 7), ("int8", 7), ("int8", 1)]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: f"{case[0]} cache, {case[1]} slots a piece")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> XnnpackExport:
    cache, slots = request.param
    root = tmp_path_factory.mktemp("pieces")
    options = {"cache_buckets": [BUCKET], "prefill_buckets": [WIDTH]}
    shapes = {"prefill_len": PREFILL_LEN}
    recipe = xnnpack_recipe("xnnpack-int4", kv_cache=cache, xnnpack=options, shapes=shapes)
    checkpoint = make_checkpoint(root / "checkpoint", **MODEL)
    with pieces_of(slots, KV_SIZE):
        return export_xnnpack(checkpoint, recipe, root / "pieces")


def test_every_slot_is_read_once(exported: XnnpackExport) -> None:
    for method, slots in in_pieces(exported).items():
        delegate = Delegate(PteFile(exported.path), method)
        for past in caches(delegate, exported):
            reads = delegate.users[past]
            spans = sorted((read.offsets[1], read.offsets[1] + read.sizes[1]) for read in reads)
            assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
            assert spans[-1][1] == slots
            assert all(read.offsets[0] == read.offsets[2] == 0 for read in reads)


def test_a_piece_is_used_up_before_the_next_is_read(exported: XnnpackExport) -> None:
    """Were all of them copied first, which no result would show, they would take the memory of the cache again."""
    for method in in_pieces(exported):
        delegate = Delegate(PteFile(exported.path), method)
        order = {id(node): number for number, node in enumerate(delegate.nodes)}
        for past in caches(delegate, exported):
            read = -1
            for node in delegate.users[past]:
                assert order[id(node)] > read
                while not isinstance(node, XNNBatchMatrixMultiply):
                    (node,) = delegate.users[node.output_id]
                    assert len(inputs_of(node)) <= 2
                read = order[id(node)]


def test_a_wide_prefill_is_not_cut(exported: XnnpackExport) -> None:
    delegate = Delegate(PteFile(exported.path), "prefill")
    for past in caches(delegate, exported):
        assert not any(isinstance(node, XNNStaticSlice) for node in delegate.users[past])


def test_it_computes_what_the_whole_does(exported: XnnpackExport) -> None:
    """The wide prefill has its attention whole: its logits against those of decoding and of the narrow one."""
    tokens = random_tokens(2 * PREFILL_LEN, exported.spec.vocab_size)
    whole, cut, narrow = exported.runner(), exported.runner(), exported.runner()
    for runner in (whole, cut, narrow):
        for buffer in runner.cache_buffers:
            buffer[:] = 100  # in slots that hold nothing
    expected = np.stack([whole.prefill(tokens[:PREFILL_LEN])[-1], whole.prefill(tokens[PREFILL_LEN:])[-1]])
    found = [cut.decode(token) for token in tokens]
    assert rms_error(np.stack(found[PREFILL_LEN - 1 :: PREFILL_LEN]), expected) < 1e-3
    ends = [
        WIDTH,
        2 * WIDTH,
        3 * WIDTH,
        PREFILL_LEN,
        PREFILL_LEN + WIDTH,
        2 * PREFILL_LEN - WIDTH,
        2 * PREFILL_LEN,
    ]
    rows = {end: narrow.prefill(tokens[start:end])[-1] for start, end in pairwise([0, *ends])}
    assert rms_error(np.stack([rows[end] for end in (PREFILL_LEN, 2 * PREFILL_LEN)]), expected) < 1e-3


def test_a_piece_of_a_real_model_has_128_slots() -> None:
    assert PIECE_BYTES // (4 * 20 * 128) == 128


def in_pieces(exported: XnnpackExport) -> dict[str, int]:
    """Slots that each method reads which is cut, by its name."""
    decode = {method: slots for slots, method in exported.decode.items()}
    return {exported.prefill[WIDTH]: exported.spec.cache.cache_len, **decode}


def caches(delegate: Delegate, exported: XnnpackExport) -> list[int]:
    """Values of the caches."""
    pasts = delegate.plan.inputs[-2 * exported.checkpoint.config.num_hidden_layers :]
    return [delegate.value_of(past) for past in pasts]
