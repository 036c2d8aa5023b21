"""Rules that give each group its scheme, and the text of a recipe with them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from helium_edge.checkpoint import open_checkpoint
from helium_edge.mixed_precision.groups import Group, groups_of
from helium_edge.mixed_precision.rules import recipe_yaml, rules_for
from helium_edge.quant import plan_weights
from helium_edge.recipe import Quantization, Scheme, load_recipe, parse_recipe
from tests.helpers.checkpoints import make_checkpoint

SCHEMES = [Scheme(bits=8), Scheme(bits=4, group_size=32), Scheme(bits=4, group_size=64, symmetric=False), None]


def model_groups(folder: Path, *, tied: bool) -> list[Group]:
    made = make_checkpoint(folder, num_hidden_layers=12, tie_word_embeddings=tied)
    return groups_of(open_checkpoint(str(made)).config)


@pytest.mark.parametrize("tied", [True, False])
def test_the_plan_of_the_rules_is_what_was_asked_for(tmp_path: Path, tied: bool) -> None:
    made = make_checkpoint(
        tmp_path / "c", num_hidden_layers=12, tie_word_embeddings=tied, hidden_size=64, intermediate_size=128
    )
    config = open_checkpoint(str(made)).config
    groups, chance = groups_of(config), random.Random(0)
    assert [name for group in groups for name in group.names].count("lm_head.weight") == 1
    for _ in range(20):
        asked = {group: chance.choice(SCHEMES) for group in groups}
        plan = plan_weights(config, Quantization(rules=rules_for(asked)))
        expected = {name: scheme for group, scheme in asked.items() for name in group.names}
        assert {planned.name: planned.scheme for planned in plan} == expected


def test_the_text_reads_back_as_the_recipe(tmp_path: Path) -> None:
    groups = model_groups(tmp_path, tied=False)
    rules = rules_for({group: SCHEMES[index % len(SCHEMES)] for index, group in enumerate(groups)})
    for name in ("onnx-int4", "xnnpack-int4-kv8", "web-int4", "coreml-int8"):
        base = load_recipe(name)
        recipe = base.model_copy(
            update={"quantization": base.quantization.model_copy(update={"rules": rules}), "description": "a: 'b'"}
        )
        text = recipe_yaml(recipe)
        assert parse_recipe(text, where="text") == recipe
        assert text.count("\n    - {match: '") == len(rules)
