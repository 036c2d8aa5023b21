"""Patterns of rules: whole names, in linear time, and what is no pattern."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from helium_edge.recipe import MAX_PATTERN, Rule

PIECES = ["a", "b", ".", "[ab]", "a|b", "(ab)", "a?", "b*", "(a|b)+", "[^a]", r"\."]
NAME = "model.layers.0.self_attn.q_proj.weight"


def matches(pattern: str, name: str = NAME) -> bool:
    return Rule(match=pattern, skip=True).matches(name)


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        (".*", NAME, True),
        ("model", NAME, False),
        ("odel.*", NAME, False),
        (r"model\.layers\.\d+\..*", NAME, True),
        ("a|ab", "ab", True),  # the first alternative alone would stop short
        ("(?i)A", "a", True),
        ("a", "a\n", False),
        ("", "", True),
        ("", "a", False),
        ("^a$", "a", True),
    ],
)
def test_a_pattern_is_held_against_the_whole_name(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


@pytest.mark.parametrize(
    "pattern", ["(.*)*x", "(.|.)*x", "(a|aa|.)+$x", ".*" * 200 + "x", r"(?:\w+\.?)+!", "(((.*)*)*)*x"]
)
def test_patterns_that_would_take_a_backtracking_engine_forever(pattern: str) -> None:
    assert not matches(pattern)


@pytest.mark.parametrize(
    "pattern", ["[", "(", "a)|(b", "*", "(?=a)", "(?!lm_head).*", r"(a)\1", "a{99999999999}",
                "((a{999}){999}){999}", "(" * 250 + ")" * 250 + "*" * 3,
                "(?P<a>x)(?P<a>y)", "\\", "x" * (MAX_PATTERN + 1)]
)  # fmt: skip
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Rule(match=pattern, skip=True)
    assert "\n" not in caught.value.errors()[0]["msg"]


@settings(max_examples=200, derandomize=True)
@given(
    st.lists(
        st.sampled_from(["a", "b", ".", "[ab]", "a|b", "(ab)", "a?", "b*", "(a|b)+", "[^a]", r"\."]), max_size=6
    ),
    st.text("ab.", max_size=6),
)
def test_plain_patterns_mean_what_python_means(parts: list[str], name: str) -> None:
    pattern = "".join(parts)
    assert matches(pattern, name) is (re.fullmatch(pattern, name) is not None)
