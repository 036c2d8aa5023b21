from __future__ import annotations

from typing import Any

import pytest

from helium_edge.config import ModelConfig
from helium_edge.errors import RecipeError
from helium_edge.model.weights import matrix_names
from helium_edge.quant import plan_weights
from helium_edge.quant.affine import storage_bytes
from helium_edge.recipe import Quantization, Scheme, load_recipe, parse_scheme, recipe_names
from tests.helpers.checkpoints import tiny_config

HEAD_AND_EMBEDDING = r"model\.embed_tokens\.weight|lm_head\.weight"


def config(**overrides: Any) -> ModelConfig:
    return ModelConfig.from_dict(tiny_config(**overrides))


def quantization(*rules: dict[str, Any], method: str = "mse") -> Quantization:
    spelled = [
        {key: _scheme(value) if key in ("scheme", "fallback") else value for key, value in rule.items()}
        for rule in rules
    ]
    return Quantization(method=method, rules=tuple(spelled))


def _scheme(name: str) -> Scheme:
    return Scheme(**parse_scheme(name))


def test_every_matrix_has_its_shape_scheme_and_size() -> None:
    model = config()
    plan = plan_weights(
        model, quantization({"match": HEAD_AND_EMBEDDING, "scheme": "int8"}, {"match": ".*", "scheme": "int4-g32"})
    )
    assert [planned.name for planned in plan] == matrix_names(model)
    found = {planned.name: (planned.shape, str(planned.scheme)) for planned in plan}
    assert found["model.embed_tokens.weight"] == ((160, 64), "int8")
    assert found["lm_head.weight"] == ((160, 64), "int8")
    first = "model.layers.1."
    assert found[first + "self_attn.q_proj.weight"] == ((64, 64), "int4-g32")
    assert found[first + "self_attn.k_proj.weight"] == ((32, 64), "int4-g32")
    assert found[first + "self_attn.v_proj.weight"] == ((32, 64), "int4-g32")
    assert found[first + "self_attn.o_proj.weight"] == ((64, 64), "int4-g32")
    assert found[first + "mlp.gate_proj.weight"] == ((96, 64), "int4-g32")
    assert found[first + "mlp.up_proj.weight"] == ((96, 64), "int4-g32")
    assert found[first + "mlp.down_proj.weight"] == ((64, 96), "int4-g32")
    assert all(planned.nbytes == storage_bytes(planned.scheme, planned.shape) for planned in plan)
    assert not any(planned.fallback for planned in plan)


def test_the_first_rule_that_matches_wins_and_skip_is_float32() -> None:
    plan = plan_weights(
        config(),
        quantization({"match": r"lm_head\.weight", "skip": True}, {"match": ".*", "scheme": "int8"}),
    )
    schemes = {planned.name: planned.scheme for planned in plan}
    assert schemes["lm_head.weight"] is None
    assert str(schemes["model.embed_tokens.weight"]) == "int8"
    assert plan[-1].nbytes == 160 * 64 * 4


def test_a_tied_head_may_have_a_scheme_of_its_own() -> None:
    plan = plan_weights(
        config(tie_word_embeddings=True),
        quantization({"match": r"lm_head\.weight", "scheme": "int4-g32"}, {"match": ".*", "scheme": "int8"}),
    )
    assert (plan[0].name, str(plan[0].scheme)) == ("model.embed_tokens.weight", "int8")
    assert (plan[-1].name, str(plan[-1].scheme), plan[-1].shape) == ("lm_head.weight", "int4-g32", (160, 64))


def test_a_weight_without_a_rule_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"no quantization rule matches the weight lm_head\.weight"):
        plan_weights(config(), quantization({"match": r"model\..*", "scheme": "int8"}))


@pytest.mark.parametrize("match", [r"q_proj", r".*_porj\.weight", r".*norm\.weight"])
def test_a_rule_without_a_weight_is_refused(match: str) -> None:
    rules = quantization(
        {"match": ".*mlp.*", "scheme": "int8"}, {"match": match, "skip": True}, {"match": ".*", "scheme": "int8"}
    )
    with pytest.raises(RecipeError, match="quantization rule 2 ") as caught:
        plan_weights(config(), rules)
    assert "matches no weight" in caught.value.message
    assert repr(match) in caught.value.message
    assert "model.layers.0.self_attn.q_proj.weight" in caught.value.hint


def test_a_rule_behind_a_more_general_one_is_refused() -> None:
    rules = quantization({"match": ".*", "scheme": "int8"}, {"match": r"lm_head\.weight", "skip": True})
    with pytest.raises(RecipeError, match=r"quantization rule 2 .* is never used: .* lm_head\.weight") as caught:
        plan_weights(config(), rules)
    assert "first match wins" in caught.value.hint


@pytest.mark.parametrize(
    ("inner", "scheme", "tensor", "found"),
    [
        (96, "int4-g64", "mlp.down_proj.weight", "of the group sizes, 32 divides K = 96"),
        (192, "int4-g128", "self_attn.q_proj.weight", "group sizes 32, 64 divide K = 64"),
        (80, "int4-g32", "mlp.down_proj.weight", "of the group sizes, none divides K = 80"),
    ],
)
def test_a_group_that_does_not_divide_names_the_sizes_that_do(
    inner: int, scheme: str, tensor: str, found: str
) -> None:
    rules = quantization({"match": HEAD_AND_EMBEDDING, "scheme": "int8"}, {"match": ".*", "scheme": scheme})
    with pytest.raises(RecipeError) as caught:
        plan_weights(config(intermediate_size=inner), rules)
    assert caught.value.message.startswith(
        f"quantization rule 2 (match '.*'): {scheme} cannot take model.layers.0.{tensor}"
    )
    assert found in caught.value.message
    assert "fallback" in caught.value.hint
    assert "skip" in caught.value.hint


def test_the_fallback_is_taken_only_where_it_is_needed() -> None:
    rules = quantization({"match": ".*", "scheme": "int4-g64", "fallback": "int4-g32"})
    plan = plan_weights(config(), rules)
    for planned in plan:
        needed = "down_proj" in planned.name
        assert planned.fallback == needed
        assert str(planned.scheme) == ("int4-g32" if needed else "int4-g64")


def test_a_fallback_that_does_not_fit_either_is_refused() -> None:
    rules = quantization({"match": ".*", "scheme": "int4-g128", "fallback": "int4-g64"})
    with pytest.raises(RecipeError, match=r"int4-g128 and its fallback int4-g64 cannot take .* 32 divides K = 96"):
        plan_weights(config(hidden_size=64), rules)


def test_an_unknown_method_is_refused_before_anything_is_read() -> None:
    with pytest.raises(RecipeError, match="unknown quantization method 'mean'"):
        plan_weights(config(), quantization({"match": ".*", "scheme": "int8"}, method="mean"))


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_fit_helium(name: str) -> None:
    model = ModelConfig.from_dict({"model_type": "helium", "architectures": ["HeliumForCausalLM"]})
    plan = plan_weights(model, load_recipe(name).quantization)
    assert len(plan) == 2 + 24 * 7
    assert not any(planned.fallback for planned in plan)
