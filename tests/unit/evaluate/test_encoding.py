"""`<s>` exactly once, splits of context and choice, and what is cut."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import helium_edge
from helium_edge.errors import InputError
from helium_edge.evaluate.encoding import Encoder
from helium_edge.evaluate.scorer import Request, Scorer
from helium_edge.evaluate.until import Continuation, continue_all
from helium_edge.runtime.tokenizer import Tokenizer
from tests.helpers.bigram import HistoryRunner

TINY = Path(helium_edge.__file__).parent / "data" / "helium-tiny" / "tokenizer.json"
BOS = 1


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TINY)


@pytest.mark.parametrize("text", ["The sensor", "", " ", "Answer:\n", "<s>The sensor", "<s><s>x"])
def test_every_text_starts_with_bos_once(tokenizer: Tokenizer, text: str) -> None:
    ids = Encoder(tokenizer, BOS, 64).encode(text)
    assert ids[0] == BOS
    assert ids.count(BOS) == 1


def test_a_template_that_adds_no_bos_gets_one(tokenizer: Tokenizer) -> None:
    class Bare:
        def encode(self, text: str) -> list[int]:
            return tokenizer.encode(text, bare=True)

        def text_of(self, token: int) -> str:
            return tokenizer.text_of(token)

    bare: Any = Bare()
    assert Encoder(bare, BOS, 64).encode("The sensor") == tokenizer.encode("The sensor")


@pytest.mark.parametrize(
    ("context", "choice"),
    [
        ("Answer:", " A"),
        ("Answer: ", "A"),
        ("The sensor", " reads 21"),
        ("", "The sensor"),
        ("Q\n", "x"),
        ("a", "b"),
    ],
)
def test_context_and_choice_are_the_tokens_of_the_whole(tokenizer: Tokenizer, context: str, choice: str) -> None:
    request = Encoder(tokenizer, BOS, 64).request(context, choice)
    assert [*request.context, *request.choice] == tokenizer.encode(context + choice)
    assert request.context[0] == BOS


def test_a_choice_that_grows_together_with_its_context_is_counted(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer, BOS, 64)
    encoder.request("The sen", "sor")
    assert (encoder.counts.requests, encoder.counts.merged) == (1, 1)


def test_a_long_context_keeps_bos_and_its_end(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer, BOS, 8)
    request = encoder.request("one two three four five six seven eight nine", " ten")
    assert request.context[0] == BOS
    assert len(request.context) + len(request.choice) == 9
    assert tokenizer.decode(request.context).endswith("nine")
    assert encoder.counts.truncated == 1
    with pytest.raises(InputError, match="does not fit in a cache of 8"):
        encoder.request("one", " two three four five six seven eight nine ten")
    with pytest.raises(InputError, match="has no tokens"):
        encoder.request("one", "")


def test_windows_start_with_bos_and_score_each_token_once(tokenizer: Tokenizer) -> None:
    text = "The sensor reads the temperature and the humidity in the room, and writes both to a file."
    ids = tokenizer.encode(text)
    for cache_len in (3, 8, 64):
        windows = Encoder(tokenizer, BOS, cache_len).windows(text)
        assert all(window.context[0] == BOS for window in windows)
        assert all(len(window.context) + len(window.choice) - 1 <= cache_len for window in windows)
        assert [token for window in windows for token in window.choice] == ids[1:]
        for before, window in itertools.pairwise(windows):
            assert window.context == (BOS, before.choice[-1])


def test_a_request_without_bos_or_with_two_is_noticed(tokenizer: Tokenizer) -> None:
    """Both faults change the rows that a decoder sees."""
    right = Encoder(tokenizer, BOS, 64).request("The sensor", " reads")
    for wrong in (right.context[1:], (BOS, *right.context)):
        assert Request(wrong, right.choice) != right
        assert [*wrong, *right.choice] != tokenizer.encode("The sensor reads")


class Chain(HistoryRunner):
    """Whatever the tokens are: behind n of them comes token n of a text, and `</s>` at its end."""

    def __init__(self, tokenizer: Tokenizer, text: str) -> None:
        super().__init__(tokenizer.vocab_size)
        self.chain = [*tokenizer.encode(text), 2]

    def row(self, tokens: Any) -> Any:
        row = np.zeros(self.vocab_size, np.float32)
        row[self.chain[len(tokens)]] = 9.0
        return row


@pytest.mark.parametrize(
    ("until", "most", "expected"),
    [
        ((), 20, " a sensor.; more"),
        ((";",), 20, " a sensor."),
        ((".;", "x"), 20, " a sensor"),
        (("nsor.",), 20, " a se"),
        (("",), 1, " a"),
    ],
)
def test_continuations_end_at_stop_strings_eos_or_length(
    tokenizer: Tokenizer, until: tuple[str, ...], most: int, expected: str
) -> None:
    scorer = Scorer(Chain(tokenizer, "Go a sensor.; more"), "all")
    jobs = [Continuation("Go", until, most)]
    assert continue_all(scorer, Encoder(tokenizer, BOS, 32), tokenizer, {2}, jobs) == [expected]
