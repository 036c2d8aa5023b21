"""Recipes are read strictly, and every refusal is one line that names the file and the key."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from helium_edge.errors import RecipeError
from helium_edge.recipe import (
    Quantization,
    Recipe,
    Rule,
    Scheme,
    load_recipe,
    parse_recipe,
    parse_scheme,
)

WHERE = "mine.yaml"


def minimal(**changes: Any) -> dict[str, Any]:
    recipe: dict[str, Any] = {
        "name": "mine",
        "targets": {"onnx": {"dialect": "contrib"}},
        "quantization": {"rules": [{"match": ".*", "scheme": "int8"}]},
    }
    return recipe | changes


def with_rule(**rule: Any) -> dict[str, Any]:
    return minimal(quantization={"rules": [rule]})


def parse(data: dict[str, Any]) -> Recipe:
    return parse_recipe(yaml.safe_dump(data), where=WHERE)


def refusal(text: str) -> RecipeError:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(text, where=WHERE)
    return caught.value


# -- schemes

SCHEMES = {
    "int8": Scheme(bits=8),
    "int4-g32": Scheme(bits=4, group_size=32),
    "int4-g64": Scheme(bits=4, group_size=64),
    "int4-g128": Scheme(bits=4, group_size=128),
    "int4-g32-asym": Scheme(bits=4, group_size=32, symmetric=False),
    "int4-g128-asym": Scheme(bits=4, group_size=128, symmetric=False),
}


@pytest.mark.parametrize(("spelling", "scheme"), SCHEMES.items())
def test_scheme_spelling_goes_both_ways(spelling: str, scheme: Scheme) -> None:
    rule = parse(with_rule(match=".*", scheme=spelling)).quantization.rules[0]
    assert rule.scheme == scheme
    assert str(scheme) == spelling


def test_long_spelling_of_a_scheme_is_the_short_one() -> None:
    fields = {"bits": 4, "group_size": 64, "symmetric": False}
    assert parse(with_rule(match=".*", scheme=fields)) == parse(with_rule(match=".*", scheme="int4-g64-asym"))


def test_parse_scheme_leaves_what_is_no_spelling_alone() -> None:
    fields = {"bits": 4}
    assert parse_scheme(fields) is fields
    assert parse_scheme(None) is None


@pytest.mark.parametrize(
    "spelling",
    ["int5", "int4", "int4-g", "int4-g31", "int4-g256", "int4-g12800", "int8-g32", "int8-asym", "INT8", " int8",
     "int8 ", "int4-g32-asymm", "xint8", "fp16", "", "int\u0664-g32"],
)  # fmt: skip
def test_unknown_schemes_are_refused(spelling: str) -> None:
    error = refusal(yaml.safe_dump(with_rule(match=".*", scheme=spelling)))
    assert error.message.startswith(f"{WHERE}: quantization rule 1: scheme")


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"bits": 4}, "int4 needs group_size 32, 64, 128; found None"),
        ({"bits": 4, "group_size": 48}, "found 48"),
        ({"bits": 8, "group_size": 32}, "leave group_size out"),
        ({"bits": 8, "symmetric": False}, "leave symmetric out"),
        ({"bits": 3}, "Input should be 4 or 8"),
        ({"bits": "4", "group_size": 32}, "Input should be 4 or 8"),
        ({"bits": 4, "group_size": 32.0}, "valid integer"),
        ({"group_size": 32}, "the key 'quantization rule 1: scheme.bits' is missing"),
    ],
)
def test_impossible_schemes_say_why(fields: dict[str, Any], part: str) -> None:
    assert part in refusal(yaml.safe_dump(with_rule(match=".*", scheme=fields))).message


# -- rules


def rules(*patterns: str) -> Quantization:
    schemes = list(SCHEMES.values())
    pairs = zip(patterns, schemes, strict=False)
    return Quantization(rules=tuple(Rule(match=pattern, scheme=scheme) for pattern, scheme in pairs))


def test_first_match_wins() -> None:
    quantization = rules(r".*\.up_proj\.weight", ".*", r"lm_head\.weight")
    assert quantization.rule_for("model.layers.0.mlp.up_proj.weight") is quantization.rules[0]
    assert quantization.rule_for("lm_head.weight") is quantization.rules[1]


@pytest.mark.parametrize("pattern", ["lm_head", r"head\.weight", r"lm_head\.weigh", "lm_head|weight", "^lm_head"])
def test_a_partial_match_is_none(pattern: str) -> None:
    with pytest.raises(RecipeError, match=r"no quantization rule matches the weight lm_head\.weight") as caught:
        rules(pattern).rule_for("lm_head.weight")
    assert "skip: true" in caught.value.hint


@pytest.mark.parametrize("pattern", [r"a|lm_head\.weight", r"lm_head.*", r"(?:lm_head|embed)\.weight"])
def test_a_whole_match_is_one(pattern: str) -> None:
    quantization = rules(pattern)
    assert quantization.rule_for("lm_head.weight") is quantization.rules[0]


@pytest.mark.parametrize(
    "rule",
    [{}, {"scheme": "int8", "skip": True}, {"skip": False}, {"fallback": "int8"}, {"scheme": None}],
    ids=["neither", "both", "skip is false", "fallback only", "null"],
)
def test_a_rule_has_either_a_scheme_or_skip(rule: dict[str, Any]) -> None:
    error = refusal(yaml.safe_dump(with_rule(match=".*", **rule)))
    assert "a rule has either a scheme or skip: true" in error.message
    assert "quantization rule 1" in error.message


def test_skip_is_kept() -> None:
    rule = parse(with_rule(match=".*", skip=True)).quantization.rules[0]
    assert (rule.skip, rule.scheme) == (True, None)


def test_fallback_is_kept() -> None:
    rule = parse(with_rule(match=".*", scheme="int4-g128", fallback="int8")).quantization.rules[0]
    assert rule.fallback == SCHEMES["int8"]


# -- unknown keys


@pytest.mark.parametrize(
    ("data", "key", "suggestion"),
    [
        (minimal(qantization={}), "qantization", "quantization"),
        (minimal(shape={}), "shape", "shapes"),
        (minimal(targets={"onyx": {}}), "targets.onyx", "onnx"),
        (minimal(targets={"onnx": {"dialekt": "contrib"}}), "targets.onnx.dialekt", "dialect"),
        (minimal(shapes={"prefil_len": 8}), "shapes.prefil_len", "prefill_len"),
        (minimal(quantization={"metod": "mse", "rules": []}), "quantization.metod", "method"),
        (with_rule(match=".*", schema="int8"), "quantization rule 1: schema", "scheme"),
        (
            with_rule(match=".*", scheme={"bits": 4, "groupsize": 32}),
            "quantization rule 1: scheme.groupsize",
            "group_size",
        ),
        (
            with_rule(match=".*", scheme="int8", fallback={"bit": 8}),
            "quantization rule 1: fallback.bit",
            "bits",
        ),
        (minimal(gates={"top_1": 0.9}), "gates.top_1", "top1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_unknown_keys_name_the_closest(data: dict[str, Any], key: str, suggestion: str) -> None:
    error = refusal(yaml.safe_dump(data))
    assert error.message == f"{WHERE}: unknown key {key!r}"
    assert error.hint == f"did you mean {suggestion!r}?"


def test_a_key_like_no_other_lists_what_is_allowed() -> None:
    error = refusal(yaml.safe_dump(minimal(gates={"zzz": 1})))
    assert error.hint == "allowed: hidden_cosine, max_logit_error, mean_kld, near_tie, ppl_ratio, task_drop, top1"


# -- values


BAD_VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "name missing": ({"name": ...}, "the key 'name' is missing"),
    "targets missing": ({"targets": ...}, "the key 'targets' is missing"),
    "quantization missing": ({"quantization": ...}, "the key 'quantization' is missing"),
    "name is a number": ({"name": 4}, "name = 4"),
    "name has capitals": ({"name": "Mine"}, 'name = "Mine"'),
    "name has a blank": ({"name": "my recipe"}, 'name = "my recipe"'),
    "name leaves the folder": ({"name": "../x"}, 'name = "../x"'),
    "name ends in a line break": ({"name": "mine\n"}, 'name = "mine\\n"'),
    "name is empty": ({"name": ""}, 'name = ""'),
    "name is too long": ({"name": "a" * 65}, "name = "),
    "description is a number": ({"description": 1}, "description = 1"),
    "no target": ({"targets": {}}, "name at least one target: onnx"),
    "targets is a list": ({"targets": ["onnx"]}, "targets = "),
    "dialect": ({"targets": {"onnx": {"dialect": "fast"}}}, 'targets.onnx.dialect = "fast"'),
    "accuracy_level": ({"targets": {"onnx": {"accuracy_level": 2}}}, "targets.onnx.accuracy_level = 2"),
    "accuracy_level text": ({"targets": {"onnx": {"accuracy_level": "4"}}}, 'targets.onnx.accuracy_level = "4"'),
    "head level": ({"targets": {"onnx": {"head_accuracy_level": 5}}}, "targets.onnx.head_accuracy_level = 5"),
    "int8 block": ({"targets": {"onnx": {"int8_block_size": 48}}}, "targets.onnx.int8_block_size = 48"),
    "prefill 0": ({"shapes": {"prefill_len": 0}}, "shapes.prefill_len = 0"),
    "prefill too long": ({"shapes": {"prefill_len": 4097}}, "shapes.prefill_len = 4097"),
    "prefill text": ({"shapes": {"prefill_len": "128"}}, 'shapes.prefill_len = "128"'),
    "prefill true": ({"shapes": {"prefill_len": True}}, "shapes.prefill_len = true"),
    "cache 1": ({"shapes": {"cache_len": 1}}, "shapes.cache_len = 1"),
    "cache too long": ({"shapes": {"cache_len": 1 << 21}}, "shapes.cache_len = 2097152"),
    "logits": ({"logits": "first"}, 'logits = "first"'),
    "no rules": ({"quantization": {"rules": []}}, "quantization.rules = []"),
    "rules missing": ({"quantization": {"method": "mse"}}, "the key 'quantization.rules' is missing"),
    "rules is a mapping": ({"quantization": {"rules": {}}}, "quantization.rules = {}"),
    "pattern": ({"quantization": {"rules": [{"match": "(", "skip": True}]}}, "is no regular expression"),
    "pattern missing": ({"quantization": {"rules": [{"skip": True}]}}, "'quantization rule 1: match' is missing"),
    "skip text": ({"quantization": {"rules": [{"match": ".*", "skip": "on"}]}}, "quantization rule 1: skip"),
    "second rule": (
        {"quantization": {"rules": [{"match": "a", "skip": True}, {"match": "b", "scheme": "int9"}]}},
        "quantization rule 2: scheme",
    ),
    "kld 0": ({"gates": {"mean_kld": 0}}, "gates.mean_kld = 0"),
    "kld text": ({"gates": {"mean_kld": "0.06"}}, 'gates.mean_kld = "0.06"'),
    "top1 in percent": ({"gates": {"top1": 90}}, "gates.top1 = 90"),
    "ppl below 1": ({"gates": {"ppl_ratio": 0.99}}, "gates.ppl_ratio = 0.99"),
    "near_tie 0": ({"gates": {"near_tie": 0}}, "gates.near_tie = 0"),
    "near_tie too wide": ({"gates": {"near_tie": 0.2}}, "gates.near_tie = 0.2"),
    "kld infinite": ({"gates": {"mean_kld": float("inf")}}, "gates.mean_kld"),
    "kld nan": ({"gates": {"mean_kld": float("nan")}}, "gates.mean_kld"),
}


@pytest.mark.parametrize(("changes", "part"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_a_bad_value_gives_one_line_that_names_file_and_key(changes: dict[str, Any], part: str) -> None:
    data = {key: value for key, value in minimal(**changes).items() if value is not ...}
    error = refusal(yaml.safe_dump(data))
    assert error.message.startswith(f"{WHERE}: ")
    assert part in error.message
    assert len(str(error).splitlines()) == 1
    assert len(error.message) < 250
    assert error.exit_code == 2


BAD_TEXTS = {
    "empty": ("", "a recipe is a mapping of keys, found NoneType"),
    "a list": ("- a\n", "found list"),
    "text": ("hello\n", "found str"),
    "no yaml": ("name: [\n", "not valid YAML"),
    "tab": ("name:\n\t- a\n", "not valid YAML, line 2"),
    "two documents": ("name: a\n---\nname: b\n", "not valid YAML"),
    "python object": ("name: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    "binary": ("name: !!binary aGk=\n", "only plain YAML values are allowed"),
    "date": ("name: 2026-11-23\n", "only plain YAML values are allowed"),
    "control character": ("name: \x01\n", "not valid YAML"),
    "deep": ("[" * 5000 + "]" * 5000, "5000 brackets are too many"),
    "duplicate": ("name: a\ndescription: b\nname: c\n", "the key 'name' stands twice"),
    "duplicate below": ("shapes: {prefill_len: 1, prefill_len: 2}\n", "the key 'prefill_len' stands twice"),
    "alias": ("name: &n mine\ndescription: *n\n", "aliases are not allowed"),
    "merge": ("shapes: &s {prefill_len: 1}\ngates:\n  <<: *s\n", "aliases are not allowed"),
    "bomb": ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases are not allowed"),
}


@pytest.mark.parametrize(("text", "part"), BAD_TEXTS.values(), ids=BAD_TEXTS)
def test_text_that_is_no_recipe(text: str, part: str) -> None:
    error = refusal(text)
    assert error.message.startswith(WHERE)
    assert part in error.message
    assert len(str(error).splitlines()) == 1


# -- what is read


def test_defaults() -> None:
    recipe = parse(minimal(targets={"onnx": {}}))
    data = recipe.model_dump(mode="json")
    data["targets"] = {name: options for name, options in data["targets"].items() if options is not None}
    assert data == {
        "name": "mine",
        "description": "",
        "targets": {
            "onnx": {
                "dialect": "contrib",
                "accuracy_level": 4,
                "head_accuracy_level": 4,
                "int8_block_size": 32,
                "min_runtime": "1.23",
            }
        },
        "shapes": {"prefill_len": 128, "cache_len": 4096},
        "logits": "last",
        "kv_cache": "float32",
        "quantization": {
            "method": "mse",
            "rules": [
                {
                    "match": ".*",
                    "scheme": {"bits": 8, "group_size": None, "symmetric": True},
                    "skip": False,
                    "fallback": None,
                }
            ],
        },
        "gates": {
            "mean_kld": None,
            "top1": None,
            "ppl_ratio": None,
            "max_logit_error": None,
            "hidden_cosine": None,
            "near_tie": 1e-3,
        },
    }
    assert recipe.targets.names() == ("onnx",)


def test_recipes_are_frozen() -> None:
    recipe = parse(minimal())
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


def test_canonical_json_is_the_same_for_the_same_recipe() -> None:
    text = "name: mine\ntargets: {onnx: {}}\nquantization: {rules: [{match: '.*', scheme: int8}]}\n"
    spelled_out = (
        "# a comment\nquantization:\n  method: mse\n  rules:\n  - {scheme: {bits: 8}, match: '.*', skip: false}\n"
        "logits: last\nshapes: {cache_len: 4096}\ntargets:\n  onnx: {accuracy_level: 4}\nname: 'mine'\n"
    )
    short, long = parse_recipe(text, where="a"), parse_recipe(spelled_out, where="b")
    assert short == long
    assert short.canonical_json() == long.canonical_json()
    other = parse_recipe(text.replace("int8", "int4-g32"), where="a")
    assert other.canonical_json() != short.canonical_json()


def test_canonical_json_is_compact_sorted_and_complete() -> None:
    recipe = parse(minimal(gates={"top1": 0.5}))
    text = recipe.canonical_json()
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))
    assert '"cache_len":4096' in text
    assert Recipe.model_validate_json(text) == recipe


CALIBRATED = (
    "name: mine\ntargets: {onnx: {}}\nquantization: {method: calibrated, rules: [{match: '.*', scheme: int8}]%s}\n"
)


def test_options_of_the_calibrated_method() -> None:
    found = parse_recipe(
        CALIBRATED % ", calibration: {tokens: 4096, rounds: 0, folds: false}", where=""
    ).quantization
    assert found.calibration is not None
    assert found.calibration.model_dump() == {"tokens": 4096, "rounds": 0, "damping": 0.1, "folds": False}
    plain = parse_recipe(CALIBRATED % "", where="")
    assert plain.quantization.calibration is None
    assert "calibration" not in plain.canonical_json()  # an earlier version reads it
    assert "calibration" in parse_recipe(CALIBRATED % ", calibration: {}", where="").canonical_json()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{token: 4096}", "unknown key 'quantization.calibration.token'"),
        ("{tokens: 10}", "quantization.calibration.tokens = 10"),
        ("{damping: 0}", "quantization.calibration.damping = 0"),
        ("{rounds: 9}", "quantization.calibration.rounds = 9"),
    ],
)
def test_wrong_options_of_the_calibrated_method_are_named(options: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(CALIBRATED % f", calibration: {options}", where="mine.yaml")
    assert message in caught.value.message


def test_other_methods_have_no_such_options() -> None:
    text = (CALIBRATED % ", calibration: {}").replace("calibrated", "mse", 1)
    with pytest.raises(RecipeError, match="calibration has no meaning under method: mse"):
        parse_recipe(text, where="mine.yaml")


def test_fast_takes_a_scale_search_and_allows_twice_the_divergence() -> None:
    calibrated = load_recipe("onnx-int4")
    fast = calibrated.fast()
    assert (fast.quantization.method, fast.quantization.calibration) == ("mse", None)
    assert fast.quantization.rules == calibrated.quantization.rules
    assert calibrated.gates.mean_kld is not None
    assert fast.gates.mean_kld == 2 * calibrated.gates.mean_kld
    assert fast.gates.model_copy(update={"mean_kld": calibrated.gates.mean_kld}) == calibrated.gates


@pytest.mark.parametrize("name", ["onnx-int8", "onnx-fp32"])
def test_fast_leaves_other_methods_alone(name: str) -> None:
    assert load_recipe(name).fast() == load_recipe(name)


def test_gates_of_tasks_are_named_only_where_they_are_given() -> None:
    """A recipe without one keeps its hash."""
    assert "task_drop" not in parse_recipe(yaml.safe_dump(minimal()), where="x").canonical_json()
    given = parse_recipe(yaml.safe_dump(minimal(gates={"task_drop": {"any": 3}})), where="x")
    assert '"task_drop":{"any":3.0,"mean":null}' in given.canonical_json()
    assert "name at least one of mean and any" in refusal(yaml.safe_dump(minimal(gates={"task_drop": {}}))).message
    error = refusal(yaml.safe_dump(minimal(gates={"task_drop": {"al": 1}})))
    assert error.hint == "did you mean 'any'?" or error.hint == "allowed: any, mean"
