"""What a tokenizer.json may not ask for; each case would cost a run its time or its memory."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any

import pytest

from helium_edge.errors import InputError
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.runtime.tokenizer_rules import read_tokenizer_file

TINY = Path(str(importlib.resources.files("helium_edge.data"))) / "helium-tiny" / "tokenizer.json"


def replace(old: str, new: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": old}, "content": new}


def sequence(*steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", "normalizers": list(steps)}


def edited(folder: Path, **changes: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(TINY.read_text(encoding="utf-8")) | changes), encoding="utf-8")
    return path


def test_the_shipped_file_keeps_the_rules() -> None:
    assert read_tokenizer_file(TINY)["model"]["type"] == "Unigram"


@pytest.mark.parametrize(
    ("part", "value", "says"),
    [
        ("normalizer", sequence(*[replace("a", "a" * 1000)] * 5), "1e+15 times as long; the limit is 64"),
        ("normalizer", replace("", "a"), "inf times as long"),
        ("normalizer", sequence(*[replace("a", "b")] * 70), "more than 64 steps"),
        ("normalizer", {"type": "Prepend", "prepend": "x" * 100}, "adds 100 characters or tokens"),
        ("decoder", replace("a", "b") | {"pattern": {"Regex": "(a+)+$"}}, "decoder matches a regular expression"),
        ("normalizer", replace("a", "b") | {"pattern": {"Regex": "a" * 2001}}, "more than 2000 characters"),
        ("normalizer", replace("a", "b") | {"pattern": {"Regex": 3}}, "or that is no text"),
        ("normalizer", sequence(*[replace("a", "b" * 9) | {"pattern": {"Regex": "a"}}] * 2), "100 times as long"),
        (
            "pre_tokenizer",
            {
                "type": "Split",
                "pattern": {"Regex": "((a{1,99}){9,99}){99}"},
                "behavior": "Isolated",
                "invert": False,
            },
            "pre_tokenizer has a regular expression that repeats 9.7e+05 times",
        ),
        (
            "post_processor",
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "x", "type_id": 0}}] * 9,
                "pair": [],
                "special_tokens": {"x": {"id": "x", "ids": [1] * 9, "tokens": ["x"] * 9}},
            },
            "adds 81 characters or tokens",
        ),
    ],
)
def test_a_broken_rule_is_named_before_the_library_sees_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, value: Any, says: str
) -> None:
    path = edited(tmp_path, **{part: value})
    monkeypatch.setattr("tokenizers.Tokenizer.from_file", None)
    with pytest.raises(InputError) as caught:
        Tokenizer(path)
    assert says in caught.value.message
    assert caught.value.message.startswith(f"{path}: ")


def test_a_panic_of_the_library_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = edited(tmp_path, normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    with pytest.raises(InputError, match=r"not a usable tokenizer\.json: "):
        Tokenizer(path)
    assert capfd.readouterr() == ("", "")


def test_the_largest_id_counts_added_tokens(tmp_path: Path) -> None:
    assert Tokenizer(TINY).largest_id == 4095
