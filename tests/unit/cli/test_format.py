from __future__ import annotations

import pytest
from helium_edge.cli import _format


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (1234567, "1.23 MB"),
        (99_960_000, "100 MB"),
        (999_600_000, "1.00 GB"),
        (4_345_287_680, "4.35 GB"),
        (2e15, "2000 TB"),
    ],
)
def test_size(nbytes: float, text: str) -> None:
    assert _format.size(nbytes) == text


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (48000, "48,000"), (6_229_248, "6.23 million"), (2_172_643_840, "2.17 billion")]
)
def test_count(number: int, text: str) -> None:
    assert _format.count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0004, "0 ms"),
        (0.85, "850 ms"),
        (0.9996, "1.0 s"),
        (3.2, "3.2 s"),
        (59.97, "1 min 0 s"),
        (3720, "1 h 2 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert _format.duration(seconds) == text


@pytest.mark.parametrize(("value", "text"), [(None, "-"), (0.0, "0"), (0.012345, "0.0123"), (1e-12, "1e-12")])
def test_figure(value: float | None, text: str) -> None:
    assert _format.figure(value) == text


@pytest.mark.parametrize(
    ("layers", "spelled"),
    [([3], "3"), ([0, 1, 2], "0-2"), ([0, 2, 3, 7], "0,2-3,7"), ([5, 4, 3], "3-5")],
)
def test_layers_of_a_weight_are_spelled_as_ranges(layers: list[int], spelled: str) -> None:
    names = [f"model.layers.{layer}.mlp.up_proj.weight" for layer in layers]
    patterns = {_format.layer_pattern(name)[0] for name in names}
    (pattern,) = patterns
    assert _format.with_layers(pattern, layers) == f"model.layers.{spelled}.mlp.up_proj.weight"


def test_a_name_without_a_layer_stays_as_it_is() -> None:
    pattern, layer = _format.layer_pattern("lm_head.weight")
    assert layer is None
    assert _format.with_layers(pattern, [None]) == "lm_head.weight"


def test_cache_tensors_are_grouped_by_layer_too() -> None:
    assert _format.layer_pattern("past_key_values.11.key") == ("past_key_values.*.key", 11)


def test_plain_is_one_line_without_escapes() -> None:
    assert _format.plain("a\nb\tc\x1b[31m\u202eé🙂\x00") == "a b c\ufffd[31m\ufffdé🙂\ufffd"


def test_printable_keeps_lines_and_joined_emoji() -> None:
    assert _format.printable("a\nb\tc\x1b[31m\r👩\u200d🔬") == "a\nb\tc\ufffd[31m\ufffd👩\u200d🔬"


def test_a_command_can_be_pasted_into_a_shell() -> None:
    assert (
        _format.command_line("generate", "my bundle", "it's") == """helium-edge generate 'my bundle' 'it'"'"'s'"""
    )
