"""Inputs and outputs of every kind of graph, against tests/golden/signatures.json.

The golden file is the contract with hosts in other languages: a change in it is a change of the manifest's schema
version. It is edited by hand, on purpose.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from helium_edge.bundle import GraphEntry
from helium_edge.config import ModelConfig
from helium_edge.signature import CacheSpec, GraphSignature, TensorSpec, cache_spec
from tests.helpers.checkpoints import tiny_config

GOLDEN = Path(__file__).parents[1] / "golden" / "signatures.json"

IN_PLACE = CacheSpec(layers=2, num_key_value_heads=3, cache_len=64, head_dim=16, update="in_place")
APPEND = replace(IN_PLACE, update="append")
PLAIN = replace(APPEND, batched=False)

SIGNATURES = {
    "prefill in_place": GraphSignature("prefill", 8, 97, IN_PLACE),
    "decode in_place": GraphSignature("decode", 1, 97, IN_PLACE),
    "any in_place": GraphSignature("any", None, 97, IN_PLACE),
    "genai": GraphSignature("any", None, 97, IN_PLACE, genai=True),
    "prefill append": GraphSignature("prefill", 8, 97, APPEND),
    "decode append": GraphSignature("decode", 1, 97, APPEND),
    "any append": GraphSignature("any", None, 97, APPEND),
    "prefill in_place, all logits": GraphSignature("prefill", 8, 97, IN_PLACE, "all"),
    "any append, all logits": GraphSignature("any", None, 97, APPEND, "all"),
    "prefill append, no batch, int64": GraphSignature("prefill", 8, 97, PLAIN, index_dtype="int64"),
}


def plain(specs: tuple[TensorSpec, ...]) -> list[list[Any]]:
    return [[spec.name, spec.role, spec.dtype, list(spec.shape)] for spec in specs]


def golden() -> dict[str, dict[str, list[list[Any]]]]:
    document: dict[str, dict[str, list[list[Any]]]] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return document


def test_the_golden_file_has_every_case() -> None:
    assert set(golden()) == set(SIGNATURES)


@pytest.mark.parametrize("case", SIGNATURES)
def test_inputs_and_outputs_are_those_of_the_golden_file(case: str) -> None:
    signature = SIGNATURES[case]
    assert plain(signature.inputs()) == golden()[case]["inputs"]
    assert plain(signature.outputs()) == golden()[case]["outputs"]


@pytest.mark.parametrize("case", SIGNATURES)
def test_names_are_unique_and_order_is_stable(case: str) -> None:
    signature = SIGNATURES[case]
    names = [spec.name for spec in (*signature.inputs(), *signature.outputs())]
    assert len(set(names)) == len(names)
    assert signature.inputs() == signature.inputs()
    assert signature.outputs()[0].role == "logits"


@pytest.mark.parametrize("case", SIGNATURES)
def test_cache_tensors_come_layer_by_layer(case: str) -> None:
    """Hosts take the i-th tensor of a role for layer i."""
    signature = SIGNATURES[case]
    for specs in (signature.inputs(), signature.outputs()):
        for role in {spec.role for spec in specs} - {
            "tokens",
            "past_length",
            "last_index",
            "attention_mask",
            "logits",
        }:
            layers = [int(spec.name.split(".")[1]) for spec in specs if spec.role == role]
            assert layers == list(range(signature.cache.layers))


@pytest.mark.parametrize("case", [case for case in SIGNATURES if "in_place" in case or case == "genai"])
def test_in_place_outputs_fit_the_memory_of_their_inputs(case: str) -> None:
    signature = SIGNATURES[case]
    past = [(spec.dtype, spec.shape) for spec in signature.inputs() if spec.role in ("past_key", "past_value")]
    present = [
        (spec.dtype, spec.shape) for spec in signature.outputs() if spec.role in ("present_key", "present_value")
    ]
    assert past == present
    assert len(past) == 4


@pytest.mark.parametrize("case", [case for case in SIGNATURES if case != "genai"])
def test_the_manifest_carries_them_unchanged(case: str) -> None:
    signature = SIGNATURES[case]
    entry = GraphEntry.model_validate_json(GraphEntry.from_signature("g.onnx", signature).model_dump_json())
    assert entry.input_specs() == signature.inputs()
    assert entry.output_specs() == signature.outputs()
    assert (entry.phase, entry.tokens, entry.cache_len) == (signature.phase, signature.tokens, 64)


def test_cache_sizes() -> None:
    assert IN_PLACE.shape == (1, 3, 64, 16)
    assert PLAIN.shape == (3, 64, 16)
    assert IN_PLACE.bytes_per_token == 2 * 2 * 3 * 16 * 4
    assert IN_PLACE.total_bytes == 64 * IN_PLACE.bytes_per_token
    assert replace(IN_PLACE, dtype="int8").bytes_per_token == 2 * 2 * 3 * 16


def test_cache_of_a_model() -> None:
    config = ModelConfig.from_dict(tiny_config(num_hidden_layers=3, num_key_value_heads=2, head_dim=16))
    assert cache_spec(config, 50, "append") == CacheSpec(3, 2, 50, 16, "append")
    assert cache_spec(config, 50, "append", batched=False).shape == (2, 50, 16)
