from __future__ import annotations

import dataclasses

import pytest

from arm64.script import plan_calls, write_script
from helium_edge.bundle import CacheSection, GraphEntry, Manifest
from helium_edge.errors import UsageError
from helium_edge.signature import CacheSpec, GraphSignature
from tests.unit.bundle.bundles import CONFIG, make_manifest

CACHE = CacheSpec(1, 2, 32, 16, "append", batched=False)


def executorch_manifest(*narrower: int) -> Manifest:
    """One `.pte` with a prefill method of 8 tokens and perhaps others, decode methods of 32, 10 and 12 slots."""

    def decode(slots: int) -> GraphSignature:
        cache = dataclasses.replace(CACHE, cache_len=slots)
        return GraphSignature("decode", 1, CONFIG.vocab_size, cache, index_dtype="int64")

    def prefill(tokens: int) -> GraphSignature:
        return GraphSignature("prefill", tokens, CONFIG.vocab_size, CACHE, index_dtype="int64")

    signatures = {"prefill": prefill(8)} | {f"prefill_{tokens}": prefill(tokens) for tokens in narrower}
    signatures |= {"decode": decode(32), "decode_10": decode(10), "decode_12": decode(12)}
    return make_manifest(
        runtime="executorch",
        cache=CacheSection.from_spec(CACHE),
        graphs=[
            GraphEntry.from_signature("decoder.pte", signature, method=name)
            for name, signature in signatures.items()
        ],
    )


def shape_of(manifest: Manifest, count: int) -> list[tuple[str, int]]:
    """File or method, and number of tokens, of each call; the tokens must be the conversation."""
    ids = list(range(5, 5 + count))
    calls = plan_calls(manifest, ids)
    assert [token for call in calls for token in call.tokens] == ids
    graphs = manifest.graphs
    return [(graphs[call.graph].method or graphs[call.graph].file, len(call.tokens)) for call in calls]


def test_a_conversation_has_a_full_and_a_ragged_chunk_and_steps_in_growing_caches() -> None:
    assert shape_of(executorch_manifest(), 24) == [
        ("prefill", 8), ("prefill", 4), *[("decode", 1)] * 12,
    ]  # fmt: skip
    assert shape_of(executorch_manifest(), 15) == [
        ("prefill", 5), ("prefill", 3), *[("decode_10", 1)] * 2, *[("decode_12", 1)] * 2, *[("decode", 1)] * 3,
    ]  # fmt: skip


def test_a_chunk_whose_padding_would_pass_the_last_slot_is_stepped() -> None:
    manifest = executorch_manifest()
    tight = dataclasses.replace(CACHE, cache_len=12)
    manifest = manifest.model_copy(update={"cache_len": 12, "cache": CacheSection.from_spec(tight)})
    calls = shape_of(manifest, 12)
    # After four tokens a chunk of eight still fits; after six it does not.
    assert calls[:2] == [("prefill", 4), ("prefill", 2)]
    shorter = manifest.model_copy(update={"cache_len": 11})
    assert [call.phase for call in plan_calls(shorter, list(range(10)))].count("prefill") == 2
    shorter = manifest.model_copy(update={"cache_len": 10})
    assert [call.phase for call in plan_calls(shorter, list(range(10)))].count("prefill") == 1


def test_narrower_methods_are_used_as_the_runner_uses_them() -> None:
    assert shape_of(executorch_manifest(2, 4), 20) == [
        ("prefill", 6), ("prefill_4", 4), *[("decode_12", 1)] * 2, *[("decode", 1)] * 8,
    ]  # fmt: skip
    assert shape_of(executorch_manifest(2, 4), 15)[:3] == [("prefill", 5), ("prefill_4", 3), ("decode_10", 1)]


def test_the_graph_for_any_number_of_tokens_serves_both_phases() -> None:
    assert shape_of(make_manifest(), 10) == [("decoder.onnx", 3), ("decoder.onnx", 2), *[("decoder.onnx", 1)] * 5]


@pytest.mark.parametrize("count", [0, 9, 33])
def test_too_few_or_too_many_tokens_are_refused(count: int) -> None:
    with pytest.raises(UsageError, match=rf"{count} tokens cannot be compared; allowed: 10 to 32"):
        plan_calls(make_manifest(), [5] * count)


def test_the_script_says_everything_that_a_runner_needs() -> None:
    manifest = executorch_manifest()
    calls = plan_calls(manifest, list(range(5, 15)))
    lines = write_script(manifest, calls).splitlines()
    assert lines[:2] == ["helium-edge-script 2", "160 last 64 0 float32 1 2 32 16"]
    assert lines[2:4] == ["4", '"decoder.pte" "prefill" 8 32']
    assert lines[4:10] == [
        "5", '"input_ids" "tokens"', '"past_length" "past_length"', '"last_index" "last_index"',
        '"past_key_values.0.key" "past_key"', '"past_key_values.0.value" "past_value"',
    ]  # fmt: skip
    assert lines[10:14] == ["3", '"logits" "logits"', '"new_key_values.0.key" "new_key"',
                            '"new_key_values.0.value" "new_value"']  # fmt: skip
    assert '"decoder.pte" "decode_10" 1 10' in lines
    assert lines[-len(calls) - 1 :] == [
        str(len(calls)), "0 3 5 6 7", "0 2 8 9", "2 1 10", "2 1 11", "2 1 12", "2 1 13", "2 1 14",
    ]  # fmt: skip


def test_onnx_scripts_have_narrow_lengths_and_a_free_width() -> None:
    manifest = make_manifest()
    lines = write_script(manifest, plan_calls(manifest, [5] * 10)).splitlines()
    assert lines[1] == "160 last 32 1 float32 1 2 32 16"
    assert '"decoder.onnx" "" 0 32' in lines
    assert '"present.0.value" "present_value"' in lines


def test_names_are_quoted_for_the_reader() -> None:
    manifest = make_manifest()
    odd = manifest.graphs[0].model_copy(update={"file": 'a "b"\\c.onnx'})
    text = write_script(manifest.model_copy(update={"graphs": (odd,)}), [])
    assert r'"a \"b\"\\c.onnx" "" 8 32' in text
