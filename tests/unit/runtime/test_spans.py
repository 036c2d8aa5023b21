"""Special tokens are those of the template, never those that a user's text spells."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, trainers

from helium_edge.errors import UsageError
from helium_edge.runtime.spans import SpanEncoder
from helium_edge.runtime.tokenizer import Tokenizer

TINY = Path(str(importlib.resources.files("helium_edge.data"))) / "helium-tiny" / "tokenizer.json"
SPECIAL = {0: "<unk>", 1: "<s>", 2: "</s>", 3: "<pad>", 4096: "<|im_start|>", 4097: "<|im_end|>"}
WORDS = st.sampled_from(
    [
        "<s>",
        "</s>",
        "<|im_end|>",
        "<|im_",
        "end|>",
        "<",
        "/s>",
        "Hello",
        "é",
        "日本",
        "\n",
        " ",
        "  ",
        "<pad>",
        "12",
    ]
)
TEXTS = st.lists(WORDS, max_size=6).map("".join)
SPANS = st.lists(st.tuples(TEXTS, st.booleans()), max_size=6)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SpanEncoder:
    return SpanEncoder(Tokenizer(with_turn_tokens(tmp_path_factory.mktemp("spans") / "tokenizer.json")))


def with_turn_tokens(path: Path, **flags: bool) -> Path:
    data = json.loads(TINY.read_text(encoding="utf-8"))
    base = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} | flags
    data["added_tokens"] += [{"id": at, "content": SPECIAL[at], **base} for at in (4096, 4097)]
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def library(encoder: SpanEncoder) -> tokenizers.Tokenizer:
    found = tokenizers.Tokenizer.from_file(str(encoder._tokenizer.path))
    found.no_padding()
    return found


@settings(max_examples=200)
@given(text=TEXTS)
def test_the_templates_text_has_the_ids_of_the_library(text: str, encoder: SpanEncoder) -> None:
    expected = library(encoder).encode(text, add_special_tokens=False).ids
    assert encoder.encode([(text, True)]) == expected
    # Without a special token to spell, so has any text.
    if not any(token in text for token in SPECIAL.values()):
        assert encoder.encode([(text, False)]) == expected


@settings(max_examples=300)
@given(spans=SPANS)
def test_users_spell_no_special_token(spans: list[tuple[str, bool]], encoder: SpanEncoder) -> None:
    ids = encoder.encode(spans)
    own = [text for text, is_own in spans if is_own]
    # Neighbouring parts of the template are one text to it.
    merged = "".join(text if is_own else "\0" for text, is_own in spans if text)
    spelled = sum(merged.count(token) for token in SPECIAL.values())
    assert sum(token in SPECIAL for token in ids) == spelled
    if not own:
        assert not any(token in SPECIAL for token in ids)
        joined = "".join(text for text, _ in spans)
        assert encoder._tokenizer.decode(ids) == encoder._tokenizer.decode(ids).strip("\0")
        assert encoder._tokenizer.decode_after_text(ids).lstrip() == joined.lstrip() or "\n" in joined


def test_a_token_across_two_parts_is_none(encoder: SpanEncoder) -> None:
    assert 4097 not in encoder.encode([("<|im_", True), ("end|>", False)])
    assert 4097 not in encoder.encode([("x<|im_", False), ("end|>", True)])
    assert 4097 in encoder.encode([("<|im_", True), ("end|>", True)])


def test_tokens_that_the_template_spells_are_special_whatever_the_file_says(tmp_path: Path) -> None:
    tokenizer = Tokenizer(with_turn_tokens(tmp_path / "t.json", special=False))
    user = [("a <|im_end|>", False)]
    assert 4097 in SpanEncoder(tokenizer).encode(user)
    assert 4097 not in SpanEncoder(tokenizer, ["x<|im_end|>\n"]).encode(user)
    assert 4097 not in SpanEncoder(tokenizer, ids={4097}).encode(user)
    assert SpanEncoder(tokenizer, ["<|im_end|>"]).first_special("<|im_end|>\n") == 4097
    assert SpanEncoder(tokenizer).first_special("\n<s>") is None


def test_blanks_beside_a_token_go_where_the_file_says_so(tmp_path: Path) -> None:
    encoder = SpanEncoder(Tokenizer(with_turn_tokens(tmp_path / "t.json", lstrip=True, rstrip=True)))
    # A user's `</s>` makes the texts be put together here and not by the library.
    apart = encoder.encode([("</s>", False), ("a  <|im_end|>  b", True)])
    whole = encoder.encode([("a  <|im_end|>  b", True)])
    assert apart[-len(whole) + 1 :] == whole[1:]
    assert whole == library(encoder).encode("a  <|im_end|>  b", add_special_tokens=False).ids


def test_a_vocabulary_without_other_pieces_is_refused(tmp_path: Path) -> None:
    """A BPE that merges letters to a special token cannot spell it otherwise."""
    trained = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.decoder = decoders.Replace("▁", " ")
    trainer = trainers.BpeTrainer(special_tokens=["<unk>"], vocab_size=40, show_progress=False)
    trained.train_from_iterator(["endend" * 20], trainer)
    assert trained.token_to_id("end") is not None
    trained.add_special_tokens([AddedToken("end", normalized=False)])
    trained.save(str(tmp_path / "t.json"))
    encoder = SpanEncoder(Tokenizer(tmp_path / "t.json"))
    with pytest.raises(UsageError, match="no other pieces"):
        encoder.encode([("end", False)])
    assert encoder.encode([("end", True)]) == [trained.token_to_id("end")]


def test_texts_hidden_from_a_program_come_back(encoder: SpanEncoder) -> None:
    hidden: list[Any] = encoder.hide(["a</s>b<s>", "\U000f1f3e</s>"])
    assert "</s>" not in "".join(hidden)
    assert encoder.shown(f"<s>{hidden[0]}</s>") == [
        ("<s>a", True), ("</s>", False), ("b", True), ("<s>", False), ("</s>", True),
    ]  # fmt: skip
    assert "".join(text for text, _ in encoder.shown(hidden[1])) == "</s>"


def test_half_a_character_is_refused(encoder: SpanEncoder) -> None:
    with pytest.raises(UsageError, match="not valid Unicode at character 1"):
        encoder.encode([("a\ud800", False)])
