from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from helium_edge.config import MAX_CONFIG_BYTES, ModelConfig
from helium_edge.errors import ConfigError
from tests.helpers.checkpoints import llama_config, random_weights, spell, tiny_config


def refusal(**overrides: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(tiny_config(**overrides), where="folder/config.json")
    text = str(caught.value)
    assert text.startswith("folder/config.json: ")
    assert "\n" not in text
    return text


def without(*keys: str, **overrides: Any) -> dict[str, Any]:
    return {key: value for key, value in tiny_config(**overrides).items() if key not in keys}


def theta_of(theirs: Any) -> Any:
    """Where transformers 5 keeps it, and where 4 does."""
    return theirs.rope_parameters["rope_theta"] if hasattr(theirs, "rope_parameters") else theirs.rope_theta


def test_defaults_are_those_of_the_reference() -> None:
    from transformers import HeliumConfig

    theirs = HeliumConfig()
    ours = ModelConfig.from_dict({"model_type": "helium"})
    for field in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
        "tie_word_embeddings", "attention_bias", "mlp_bias", "pad_token_id", "bos_token_id",
    ):  # fmt: skip
        assert getattr(ours, field) == getattr(theirs, field), field
    assert ours.eos_token_ids == (theirs.eos_token_id,)
    assert ours.rope_theta == theta_of(theirs)
    assert ours.architecture == "HeliumForCausalLM"
    assert ours.rope_interleaved


def test_defaults_of_llama_are_those_of_the_reference() -> None:
    from transformers import LlamaConfig

    for given in (
        {},
        {"hidden_size": 64, "num_attention_heads": 4},
        {"num_key_value_heads": None, "head_dim": None},
    ):
        theirs = LlamaConfig(**given)
        ours = ModelConfig.from_dict({"model_type": "llama", **given})
        for field in (
            "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps",
            "tie_word_embeddings", "attention_bias", "mlp_bias", "pad_token_id", "bos_token_id",
        ):  # fmt: skip
            assert getattr(ours, field) == getattr(theirs, field), field
        assert ours.eos_token_ids == (theirs.eos_token_id,)
        assert ours.rope_theta == theta_of(theirs)
    assert ours.architecture == "LlamaForCausalLM"
    assert not ours.rope_interleaved


def test_theta_of_llama_defaults_to_its_own_in_both_spellings() -> None:
    for spelled in ({}, {"rope_parameters": {"rope_type": "default"}}):
        assert ModelConfig.from_dict({"model_type": "llama", **spelled}).rope_theta == 10000.0


def test_classes_of_the_other_family_are_refused() -> None:
    with pytest.raises(ConfigError, match="allowed: LlamaForCausalLM"):
        ModelConfig.from_dict(llama_config(architectures=["HeliumForCausalLM"]))


def test_llama_heads_that_do_not_fill_the_hidden_size_are_refused() -> None:
    for size in (66, 3):  # head_dim is then 16, and 0
        with pytest.raises(ConfigError, match="must equal hidden_size"):
            ModelConfig.from_dict({"model_type": "llama", "hidden_size": size, "num_attention_heads": 4})


def test_every_field_is_read() -> None:
    config = ModelConfig.from_dict(
        tiny_config(
            attention_bias=True, mlp_bias=True, tie_word_embeddings=True, bos_token_id=7, eos_token_id=8,
            pad_token_id=9, rms_norm_eps=1e-5, rope_theta=12345.0, hidden_act="relu",
        )
    )  # fmt: skip
    assert config == ModelConfig(
        model_type="helium", architecture="HeliumForCausalLM", vocab_size=160, hidden_size=64,
        intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        hidden_act="relu", max_position_embeddings=128, rms_norm_eps=1e-5, rope_theta=12345.0,
        attention_bias=True, mlp_bias=True, tie_word_embeddings=True, bos_token_id=7, eos_token_ids=(8,),
        pad_token_id=9,
    )  # fmt: skip


def test_both_spellings_give_the_same_config() -> None:
    old = spell(tiny_config(rope_theta=500.0), "4.x")
    new = spell(tiny_config(rope_theta=500.0), "5.x")
    assert "rope_theta" not in new
    assert ModelConfig.from_dict(old) == ModelConfig.from_dict(new)
    assert ModelConfig.from_dict(new).rope_theta == 500.0


def test_both_spellings_at_once_may_agree() -> None:
    config = ModelConfig.from_dict(tiny_config(rope_theta=500, rope_parameters={"rope_theta": 500.0}))
    assert config.rope_theta == 500.0


def test_both_spellings_at_once_must_agree() -> None:
    text = refusal(rope_theta=100000.0, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
    assert "rope_theta = 100000.0 is not supported" in text
    assert "500.0" in text


def test_rope_parameters_without_theta_take_the_default_or_the_old_spelling() -> None:
    assert ModelConfig.from_dict(without("rope_theta", rope_parameters={})).rope_theta == 100000.0
    assert ModelConfig.from_dict(tiny_config(rope_theta=500.0, rope_parameters={})).rope_theta == 500.0


@pytest.mark.parametrize("scaling", [None, {}, {"rope_type": "default"}, {"type": "default"}])
def test_rope_scaling_that_scales_nothing_is_accepted(scaling: Any) -> None:
    assert ModelConfig.from_dict(tiny_config(rope_scaling=scaling)).rope_theta == 100000.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rope_scaling", "linear"),
        ("rope_parameters", {"rope_type": "llama3", "rope_theta": 1e5}),
        ("rope_parameters", [1]),
    ],
)
def test_rope_variants_are_refused(field: str, value: Any) -> None:
    text = refusal(**{field: value})
    assert f"{field} = " in text
    assert "default" in text


@pytest.mark.parametrize(
    ("eos", "expected"), [(2, (2,)), ([2, 5], (2, 5)), ([], ()), (None, ())], ids=["one", "list", "empty", "null"]
)
def test_eos(eos: Any, expected: tuple[int, ...]) -> None:
    assert ModelConfig.from_dict(tiny_config(eos_token_id=eos)).eos_token_ids == expected


def test_absent_and_null_tokens_differ() -> None:
    absent = ModelConfig.from_dict(without("pad_token_id", "bos_token_id", "eos_token_id"))
    assert (absent.pad_token_id, absent.bos_token_id, absent.eos_token_ids) == (3, 1, (2,))
    null = ModelConfig.from_dict(tiny_config(pad_token_id=None, bos_token_id=None))
    assert (null.pad_token_id, null.bos_token_id) == (None, None)


@pytest.mark.parametrize("field", ["bos_token_id", "eos_token_id", "pad_token_id"])
@pytest.mark.parametrize("value", [-2, 160, True, 1.0, "2", [[2]]])
def test_token_ids_outside_the_vocabulary_are_refused(field: str, value: Any) -> None:
    text = refusal(**{field: value})
    assert field in text
    assert "a token id from 0 to 159" in text


def test_one_bad_id_in_an_eos_list_is_refused() -> None:
    assert "eos_token_id = 160" in refusal(eos_token_id=[2, 160])


SIZES = [
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings",
]  # fmt: skip


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("value", [0, -1, 2**31, 2**63, True, 64.0, math.nan, math.inf, "24", None, [64], {}])
def test_bad_sizes_are_refused(field: str, value: Any) -> None:
    text = refusal(**{field: value})
    assert f"{field} = {value!r} is not supported; allowed: an integer from 1 to 16777216" in text


@pytest.mark.parametrize("field", ["rms_norm_eps", "rope_theta"])
@pytest.mark.parametrize(
    "value", [0, 0.0, -1e-8, math.nan, math.inf, True, "1e-8", None, [1.0], 10**400], ids=lambda v: str(v)[:9]
)
def test_bad_numbers_are_refused(field: str, value: Any) -> None:
    text = refusal(**{field: value})
    assert f"{field} = " in text
    assert "a finite number above 0" in text
    assert len(text) < 200


@pytest.mark.parametrize("value", [0, -1.0, math.nan, "1e5", True])
def test_bad_theta_of_the_new_spelling_is_refused(value: Any) -> None:
    assert "rope_parameters.rope_theta = " in refusal(rope_parameters={"rope_theta": value})


@pytest.mark.parametrize("field", ["attention_bias", "mlp_bias", "tie_word_embeddings"])
@pytest.mark.parametrize("value", [0, 1, "true", None, []])
def test_bad_flags_are_refused(field: str, value: Any) -> None:
    assert f"{field} = {value!r} is not supported; allowed: true or false" in refusal(**{field: value})


@pytest.mark.parametrize(
    ("spelling", "expected"),
    [
        ("silu", "silu"), ("swish", "silu"), ("gelu", "gelu"), ("gelu_pytorch_tanh", "gelu_pytorch_tanh"),
        ("relu", "relu"),
    ],
)  # fmt: skip
def test_activations(spelling: str, expected: str) -> None:
    assert ModelConfig.from_dict(tiny_config(hidden_act=spelling)).hidden_act == expected


def test_an_unknown_activation_is_refused_with_a_guess() -> None:
    text = refusal(hidden_act="silo")
    assert "hidden_act = 'silo'" in text
    assert "did you mean 'silu'?" in text
    assert "hidden_act = 3" in refusal(hidden_act=3)


def test_what_cannot_run_is_refused() -> None:
    assert "num_attention_heads * head_dim = 4 * 32 = 128 must equal hidden_size = 64" in refusal(head_dim=32)
    assert "num_key_value_heads = 3 does not divide num_attention_heads = 4" in refusal(num_key_value_heads=3)
    odd = refusal(hidden_size=60, num_attention_heads=4, head_dim=15)
    assert "head_dim = 15 must be even" in odd
    assert "num_key_value_heads = 8 does not divide" in refusal(num_key_value_heads=8)


def test_literal_defaults_are_not_derived_from_other_fields() -> None:
    with pytest.raises(ConfigError, match="num_key_value_heads = 20 does not divide"):
        ModelConfig.from_dict(without("num_key_value_heads"))


@pytest.mark.parametrize("found", [None, "mistral", "Helium", 3, ["helium"]])
def test_other_model_types_are_refused(found: Any) -> None:
    text = refusal(model_type=found)
    assert f"model_type = {found!r} is not supported; allowed: helium, llama" in text
    assert "helium: HeliumForCausalLM" in text
    assert "llama: LlamaForCausalLM" in text


@pytest.mark.parametrize(
    "found", [["LlamaForCausalLM"], ["HeliumForCausalLM", "X"], "HeliumForCausalLM", [None], [["x"]]]
)
def test_other_architectures_are_refused(found: Any) -> None:
    text = refusal(architectures=found)
    assert "architectures = " in text
    assert "allowed: HeliumForCausalLM" in text


def test_an_absent_architecture_is_the_language_model() -> None:
    assert ModelConfig.from_dict(without("architectures")).architecture == "HeliumForCausalLM"


@pytest.mark.parametrize(
    "found", [[], None, ["PeftModelForCausalLM"], ["PeftModel"], ["AutoModelForCausalLMWithValueHead"]], ids=str
)
def test_an_architecture_that_names_no_class_leaves_it_to_the_tensors(found: Any) -> None:
    config = ModelConfig.from_dict(tiny_config(architectures=found))
    assert (config.names_class, config.architecture) == (False, "HeliumForCausalLM")
    config = ModelConfig.from_dict(tiny_config(architectures=found), architecture="HeliumModel")
    assert (config.names_class, config.architecture) == (False, "HeliumModel")
    assert ModelConfig.from_dict(tiny_config(), architecture="HeliumModel").architecture == "HeliumForCausalLM"


@pytest.mark.parametrize("field", ["pad_token_id", "bos_token_id", "eos_token_id"])
def test_minus_one_is_no_token_and_is_told(field: str) -> None:
    config = ModelConfig.from_dict(tiny_config(**{field: -1}))
    found = {"pad_token_id": config.pad_token_id, "bos_token_id": config.bos_token_id,
             "eos_token_id": config.eos_token_ids or None}  # fmt: skip
    assert found[field] is None
    assert config.warnings == (f"config.json: {field} = -1 is no token; taken as none",)


def test_a_token_without_a_row_has_a_hint_of_its_own() -> None:
    assert "call resize_token_embeddings" in refusal(pad_token_id=160)


def test_code_beside_the_model_is_ignored_and_told() -> None:
    config = ModelConfig.from_dict(tiny_config(auto_map={"AutoModel": "x.Y"}))
    assert config.warnings[0].startswith("config.json: auto_map names code, which is never run")


def test_a_model_of_several_parts_is_named() -> None:
    with pytest.raises(ConfigError, match="the language model is described in text_config, as one part") as caught:
        ModelConfig.from_dict({"model_type": "helium", "text_config": tiny_config()})
    assert "save that part alone" in caught.value.hint


def test_quantized_checkpoints_are_refused() -> None:
    assert "bring the unquantized checkpoint" in refusal(quantization_config={"bits": 4})


def test_unknown_keys_are_kept_out_of_the_way() -> None:
    assert ModelConfig.from_dict(tiny_config(pretraining_tp=1, use_cache=True)) == ModelConfig.from_dict(
        tiny_config()
    )


def test_long_values_are_cut_in_messages() -> None:
    text = refusal(quantization_config={"x": "y" * 10_000})
    assert len(text) < 300


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", [tiny_config, llama_config])
def test_parameter_count_is_that_of_the_weights(family: Any, bias: bool, tied: bool) -> None:
    data = family(attention_bias=bias, mlp_bias=bias, tie_word_embeddings=tied)
    assert ModelConfig.from_dict(data).num_parameters == sum(w.numel() for w in random_weights(data).values())


def test_the_published_model_has_its_published_size() -> None:
    assert ModelConfig.from_dict({"model_type": "helium"}).num_parameters == 2_172_643_840


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(tiny_config()), encoding="utf-8")
    assert ModelConfig.from_file(path) == ModelConfig.from_dict(tiny_config())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "not readable as JSON"),
        (b'{"model_type": ', "not readable as JSON"),
        (b'{"model_type": "\xff"}', "not readable as JSON"),
        (b"[" * 200_000, "not readable as JSON"),
        (b'{"vocab_size": ' + b"9" * 5000 + b"}", "not readable as JSON"),
        (b"[1, 2]", "the top level must be an object, found list"),
        (b"null", "the top level must be an object, found NoneType"),
        (b" " * (MAX_CONFIG_BYTES + 1), "the limit is 1048576"),
    ],
    ids=["empty", "cut", "not-utf8", "deep", "long-number", "list", "null", "large"],
)
def test_malformed_files_are_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_file(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_beyond_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for text in ("NaN", "1e400", "-Infinity"):
        data = json.dumps(tiny_config(rms_norm_eps=-1)).replace('"rms_norm_eps": -1', f'"rms_norm_eps": {text}')
        path.write_text(data, encoding="utf-8")
        with pytest.raises(ConfigError, match="rms_norm_eps = "):
            ModelConfig.from_file(path)


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        ModelConfig.from_file(tmp_path / "config.json")
    os.mkdir(tmp_path / "config.json")
    with pytest.raises(ConfigError, match="not a regular file"):
        ModelConfig.from_file(tmp_path / "config.json")
