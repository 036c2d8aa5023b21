"""The evaluation text itself, and how it is cut into windows."""

from __future__ import annotations

import importlib.resources
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from helium_edge.errors import UsageError
from helium_edge.runtime.tokenizer import Tokenizer
from helium_edge.texts import LANGUAGES, MIN_WINDOW_LEN, evaluation_text, evaluation_windows

DATA = importlib.resources.files("helium_edge.data")
OWN_LETTERS = {"en": "", "fr": "éèàêç«»", "de": "äöüß", "it": "èàùò«»", "pt": "ãçõáí", "es": "ñáéíóú"}
COMMON_WORDS = {
    "en": {"the", "and", "when"},
    "fr": {"le", "une", "dans"},
    "de": {"und", "der", "nicht"},
    "it": {"che", "di", "una"},
    "pt": {"não", "uma", "do"},
    "es": {"los", "una", "el"},
}


@pytest.fixture(scope="module")
def tokenizer() -> Iterator[Tokenizer]:
    with importlib.resources.as_file(DATA / "helium-tiny" / "tokenizer.json") as path:
        yield Tokenizer(Path(path))


def test_one_text_per_language() -> None:
    names = sorted(entry.name for entry in (DATA / "eval-text").iterdir())
    assert names == sorted(f"{language}.txt" for language in LANGUAGES)
    texts = [evaluation_text(language) for language in LANGUAGES]
    paragraphs = [part for text in texts for part in text.split("\n\n")]
    assert len(set(paragraphs)) == len(paragraphs)


@pytest.mark.parametrize("language", LANGUAGES)
def test_text(language: str) -> None:
    raw = (DATA / "eval-text" / f"{language}.txt").read_bytes()
    text = raw.decode("utf-8")
    assert 250 <= len(text.split()) <= 350
    assert text.endswith("\n")
    assert "\r" not in text
    assert unicodedata.normalize("NFC", text) == text
    assert any(character.isdigit() for character in text)
    for letter in OWN_LETTERS[language]:
        assert letter in text, letter
    words = {word.strip(".,;:").lower() for word in text.split()}
    assert words >= COMMON_WORDS[language]


@pytest.mark.parametrize("window_len", [16, 40, 128, 256, 2000])
def test_windows(tokenizer: Tokenizer, window_len: int) -> None:
    windows = evaluation_windows(tokenizer, window_len=window_len)
    languages = list(dict.fromkeys(window.language for window in windows))
    assert tuple(languages) == LANGUAGES
    for window in windows:
        assert 1 < len(window.tokens) <= window_len
        assert window.tokens[0] == 1
        assert 1 not in window.tokens[1:]
        assert all(0 <= token < tokenizer.vocab_size for token in window.tokens)
    for language in LANGUAGES:
        own = [window for window in windows if window.language == language]
        words = " ".join(tokenizer.decode(window.tokens) for window in own).split()
        text = evaluation_text(language).split()
        assert words == text[: len(words)]  # in order, no word lost or cut
        rest = " ".join(text[len(words) :])
        assert not rest or len(tokenizer.encode(rest)) < MIN_WINDOW_LEN
        spans = [match.span() for match in re.finditer(r"\S+", evaluation_text(language))]
        begin = 0
        for window in own[:-1]:
            end = begin + len(tokenizer.decode(window.tokens).split())
            # Full: with the next word it would be too long.
            longer = evaluation_text(language)[spans[begin][0] : spans[end][1]]
            assert len(tokenizer.encode(longer)) > window_len
            begin = end


def test_limits(tokenizer: Tokenizer) -> None:
    windows = evaluation_windows(tokenizer, window_len=64, max_windows_per_language=2, languages=("it", "de"))
    assert [window.language for window in windows] == ["it", "it", "de", "de"]
    everything = evaluation_windows(tokenizer, window_len=64, languages=("it",))
    assert everything[:2] == windows[:2]
    assert (
        evaluation_windows(tokenizer, window_len=64, max_windows_per_language=999, languages=("it",)) == everything
    )


def test_refusals(tokenizer: Tokenizer) -> None:
    with pytest.raises(UsageError, match="windows of 15 tokens"):
        evaluation_windows(tokenizer, window_len=15)
    with pytest.raises(UsageError, match="0 windows per language"):
        evaluation_windows(tokenizer, max_windows_per_language=0)
    with pytest.raises(UsageError, match=r"no evaluation text in 'fi'.*\(.*en"):
        evaluation_windows(tokenizer, languages=("fi",))

    class Bytes:
        def encode(self, text: str) -> list[int]:
            return [1, *text.encode()]

    with pytest.raises(UsageError, match="'microcontrollore' does not fit a window of 16"):
        evaluation_windows(Bytes(), window_len=16, languages=("it",))


def test_bos_is_the_tokenizers_business() -> None:
    class Words:
        def encode(self, text: str) -> list[int]:
            return [7] * len(text.split())

    assert len(evaluation_text("en").split()) % 20 == 7
    windows = evaluation_windows(Words(), window_len=20, languages=("en",))
    # The last 7 words would be a window too short to be worth running.
    assert [window.tokens for window in windows] == [(7,) * 20] * (len(evaluation_text("en").split()) // 20)
