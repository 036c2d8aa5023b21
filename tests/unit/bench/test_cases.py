from __future__ import annotations

from typing import Any

import pytest

from helium_edge.bench.cases import Case, Settings, first_positions, graph_slots, plan_cases, step_bytes
from helium_edge.bundle import Manifest, read_manifest
from helium_edge.errors import UsageError
from tests.unit.bundle.bundles import write_bundle

SLOTS = 32  # of that bundle


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return read_manifest(write_bundle(tmp_path_factory.mktemp("cases") / "tiny") / "helium-edge.json")


def with_buckets(manifest: Manifest, buckets: list[int]) -> Manifest:
    """The same with decode graphs of shorter caches, as an ExecuTorch bundle has them."""
    cache = manifest.cache
    assert cache is not None
    decode = next(graph for graph in manifest.graphs if graph.phase == "decode")
    prefill = next(graph for graph in manifest.graphs if graph.phase == "prefill")
    graphs = [prefill, *(decode.model_copy(update={"cache_len": slots}) for slots in (SLOTS, *buckets))]
    return manifest.model_copy(
        update={"graphs": tuple(graphs), "cache": cache.model_copy(update={"update": "append"})}
    )


def contexts(manifests: list[Manifest], **settings: Any) -> list[int]:
    cases = plan_cases(manifests, Settings(**settings))
    return [case.context for case in cases if case.phase == "decode"]


def test_depths_go_as_far_as_the_cache(manifest: Manifest) -> None:
    assert contexts([manifest]) == [0, SLOTS - 8]
    assert contexts([manifest], steps=4) == [0, SLOTS - 4]
    long = manifest.model_copy(update={"cache_len": 4096})
    assert contexts([long]) == [0, 512, 2048, 4088]
    assert contexts([long], contexts=(2048, 0, 0)) == [0, 2048]


def test_two_bundles_share_their_depths(manifest: Manifest) -> None:
    long = manifest.model_copy(update={"cache_len": 4096})
    assert contexts([long, manifest]) == [0, SLOTS - 8]


def test_prompts_are_run_where_they_fit(manifest: Manifest) -> None:
    cases = plan_cases([manifest], Settings(contexts=(0, 16, 24), prefill=(8, 20)))
    assert [case for case in cases if case.phase == "prefill"] == [
        Case("prefill", 0, 8), Case("prefill", 16, 8), Case("prefill", 24, 8), Case("prefill", 0, 20),
    ]  # fmt: skip
    # One that fits at no depth that was asked for is run at an empty cache.
    cases = plan_cases([manifest], Settings(contexts=(16,), prefill=(30,)))
    assert cases[-1] == Case("prefill", 0, 30)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contexts": (25,)}, "--context 25: the KV cache has 32 slots"),
        ({"prefill": (33,)}, "--prefill 33"),
        ({"steps": 33}, "--steps 33"),
    ],
)
def test_what_does_not_fit_is_refused(manifest: Manifest, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_cases([manifest], Settings(**settings))


def test_a_decoder_is_not_compared_with_a_classifier(manifest: Manifest) -> None:
    text = manifest.model_copy(update={"cache": None})
    with pytest.raises(UsageError, match="nothing to compare"):
        plan_cases([manifest, text], Settings())
    assert plan_cases([text], Settings()) == [Case("classify", 0, text.prefill_len)]
    with pytest.raises(UsageError, match="no context"):
        plan_cases([text], Settings(contexts=(0,)))


def test_a_step_reads_the_weights_and_the_rows_that_are_there(manifest: Manifest) -> None:
    assert manifest.cache is not None
    row, packed = manifest.cache.bytes_per_token, manifest.memory.packed_bytes
    assert step_bytes(manifest, Case("decode", 0, 8)) == packed + 4 * row
    assert step_bytes(manifest, Case("decode", 20, 8)) == packed + 24 * row


def test_a_graph_that_appends_reads_every_slot_of_its_cache(manifest: Manifest) -> None:
    buckets = with_buckets(manifest, [8, 16])
    assert buckets.cache is not None
    row, packed = buckets.cache.bytes_per_token, buckets.memory.packed_bytes
    found = [step_bytes(buckets, Case("decode", context, 1)) for context in (0, 7, 8, 15, 16, 31)]
    assert [(read - packed) // row for read in found] == [8, 8, 16, 16, 32, 32]
    assert [graph_slots(buckets, context) for context in (0, 8, 16)] == [8, 16, 32]


def test_every_decode_graph_is_run_before_it_counts_as_ready(manifest: Manifest) -> None:
    assert first_positions(manifest) == [0]
    assert first_positions(with_buckets(manifest, [16, 8])) == [0, 8, 16]


def test_a_sample_of_decode_is_shared_by_its_steps() -> None:
    assert [Case(phase, 0, 8).units for phase in ("decode", "prefill", "classify")] == [8, 1, 1]  # type: ignore[arg-type]
