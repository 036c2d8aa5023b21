"""The scorer against paper, against itself without reuse, and with faults planted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helium_edge.errors import BundleError, CacheFullError, UsageError
from helium_edge.evaluate import scorer as module
from helium_edge.evaluate.scorer import ChoiceScore, Request, Scorer
from helium_edge.runtime.runner import Logits
from tests.helpers.bigram import HistoryRunner, RowsOnDemand, TableRunner

TABLE = np.random.default_rng(3).normal(0, 1.5, (6, 6)).astype(np.float32)


def by_paper(row: Any, token: int) -> float:
    """log softmax, with exact sums."""
    values = [float(value) for value in row]
    top = max(values)
    return values[token] - top - math.log(math.fsum(math.exp(value - top) for value in values))


def expected(runner: HistoryRunner, request: Request) -> ChoiceScore:
    whole = [*request.context, *request.choice]
    rows = [runner.row(whole[:end]) for end in range(len(request.context), len(whole))]
    parts = [by_paper(row, token) for row, token in zip(rows, request.choice, strict=True)]
    greedy = all(int(row.argmax()) == token for row, token in zip(rows, request.choice, strict=True))
    return ChoiceScore(math.fsum(parts), greedy)


def assert_right(runner: HistoryRunner, requests: list[Request], found: list[ChoiceScore]) -> None:
    assert len(found) == len(requests)
    for request, score in zip(requests, found, strict=True):
        right = expected(runner, request)
        assert score.log_probability == pytest.approx(right.log_probability, rel=1e-12, abs=1e-12)
        assert score.greedy == right.greedy


token = st.integers(0, 3)
requests_of_few_tokens = st.lists(
    st.builds(
        Request,
        st.lists(token, min_size=1, max_size=6).map(tuple),
        st.lists(token, min_size=1, max_size=4).map(tuple),
    ),
    min_size=1,
    max_size=10,
)
RUNNERS: dict[str, Callable[[], HistoryRunner]] = {
    "all": HistoryRunner,
    "last": lambda: HistoryRunner(logits="last"),
    "rows": RowsOnDemand,
    "bigram": lambda: TableRunner(TABLE),
}


def logits_of(kind: str) -> Any:
    return "last" if kind in ("last", "rows") else "all"


@pytest.mark.parametrize("kind", RUNNERS)
@given(requests=requests_of_few_tokens, block=st.integers(1, 5))
@settings(max_examples=60)
def test_the_trie_finds_what_plain_scoring_finds(kind: str, requests: list[Request], block: int) -> None:
    runner = RUNNERS[kind]()
    trie = Scorer(runner, logits_of(kind), block=block)
    assert_right(runner, requests, trie.score(requests))
    plain_runner = RUNNERS[kind]()
    plain = Scorer(plain_runner, logits_of(kind), reuse=False)
    assert_right(runner, requests, plain.score(requests))
    asked = sum(len(request.context) + len(request.choice) - 1 for request in requests)
    assert trie.counts.asked == plain.counts.asked == plain.counts.fed == len(plain_runner.fed) == asked
    assert trie.counts.fed == len(runner.fed) <= asked
    assert trie.counts.saved == asked - len(runner.fed)


@given(sets=st.lists(requests_of_few_tokens, min_size=2, max_size=3))
@settings(max_examples=40)
def test_calls_may_follow_each_other(sets: list[list[Request]]) -> None:
    runner = HistoryRunner()
    scorer = Scorer(runner, "all")
    for requests in sets:
        assert_right(runner, requests, scorer.score(requests))
        window = requests[0]
        total = scorer.rolling(window.context, window.choice)
        assert total == pytest.approx(expected(runner, window).log_probability, rel=1e-12, abs=1e-12)
        for _index, _new in scorer.generate([window.context], 3, lambda _: _Length()):
            pass


class _Length:
    def push(self, token: int) -> bool:
        return token >= 0


@pytest.mark.parametrize(
    "choices",
    [
        [(1,), (2,), (3,)],
        [(1, 2, 3), (1, 2, 3)],
        [(1,), (1, 2), (1, 2, 3)],
        [(2, 1), (1, 2), (2, 1, 1), (2,)],
    ],
    ids=["letters", "equal", "one a start of another", "mixed"],
)
def test_choices_of_one_context(choices: list[tuple[int, ...]]) -> None:
    runner = TableRunner(TABLE)
    scorer = Scorer(runner, "all")
    assert_right(runner, [Request((4, 5), choice) for choice in choices], scorer.score_choices((4, 5), choices))
    # Each choice is fed once, without its last token and without what it shares with the one before.
    starts = {choice[:end] for choice in choices for end in range(1, len(choice))}
    assert scorer.counts.fed == 2 + len(starts)


def test_a_shared_preamble_is_fed_once() -> None:
    runner = HistoryRunner(vocab_size=50, cache_len=64)
    preamble = tuple(range(30))
    requests = [Request((*preamble, 40 + at), (letter,)) for at in range(5) for letter in (1, 2, 3, 4)]
    scorer = Scorer(runner, "all")
    assert_right(runner, requests, scorer.score(requests))
    assert scorer.counts.fed == len(preamble) + 5
    assert scorer.counts.asked == 20 * 31


def test_generation_follows_the_most_likely_tokens() -> None:
    runner = HistoryRunner()
    contexts = [(3, 1), (0,), (3, 1, 2)]
    found = dict(Scorer(runner, "all").generate(contexts, 4, lambda _: _Length()))
    for index, context in enumerate(contexts):
        new: list[int] = []
        for _ in range(4):
            new.append(int(runner.row([*context, *new]).argmax()))
        assert found[index] == new


def test_requests_that_cannot_be_scored_are_refused() -> None:
    scorer = Scorer(HistoryRunner(cache_len=4), "all")
    assert scorer.score_choices((1, 2), [(1, 2, 3)])  # the last token is never fed
    with pytest.raises(CacheFullError, match="5 tokens do not fit"):
        scorer.score_choices((1, 2), [(1, 2, 3, 1)])
    with pytest.raises(UsageError, match="at least one token"):
        scorer.score_choices((), [(1,)])
    with pytest.raises(UsageError, match="at least one token"):
        scorer.score_choices((1,), [()])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(value: float) -> None:
    table = TABLE.copy()
    table[2, 0] = value
    with pytest.raises(BundleError, match="not finite"):
        Scorer(TableRunner(table), "all").score_choices((2,), [(1,)])
    with pytest.raises(BundleError, match="not finite"):
        list(Scorer(TableRunner(table), "all").generate([(2,)], 1, lambda _: _Length()))


def test_another_number_of_rows_is_an_error() -> None:
    """A `zip` would score the first token of each choice alone."""
    with pytest.raises(BundleError, match="1 rows of logits where 3 belong"):
        Scorer(HistoryRunner(logits="last"), "all").score_choices((1, 2, 3), [(1, 2)])
    with pytest.raises(BundleError, match="3 rows of logits where 1 belong"):
        Scorer(HistoryRunner(logits="all"), "last").score_choices((1, 2, 3), [(1, 2)])


# -- planted faults: each has to turn the comparison with paper red

REQUESTS = [
    Request(context, choice)
    for context in ((1, 2, 3), (1, 2), (1, 2, 3, 2), (4, 1))
    for choice in ((2, 3, 1), (2, 3, 2), (3,), (1,))
]  # fmt: skip


class _NoRewind(HistoryRunner):
    def seek(self, position: int) -> None:
        self._position = max(position, self._position)


class _OneOff(HistoryRunner):
    def seek(self, position: int) -> None:
        self._position = max(0, position - 1)


class _Stale(HistoryRunner):
    """Slots behind a rewound position are taken for those of the new tokens."""

    def _step(self, token: int) -> Logits:
        if self._slots[self._position] == 0:
            self._slots[self._position] = token
        self._position += 1
        self.fed.append(token)
        return self.row(self._slots[: self._position])


@pytest.mark.parametrize("runner", [_NoRewind, _OneOff, _Stale])
def test_a_cache_that_is_rewound_wrongly_is_noticed(runner: type[HistoryRunner]) -> None:
    with pytest.raises((AssertionError, CacheFullError)):
        assert_right(HistoryRunner(), REQUESTS, Scorer(runner(), "all").score(REQUESTS))


def test_a_last_token_that_is_one_off_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = module.log_probability
    monkeypatch.setattr(module, "log_probability", lambda row, token: true(row, (token + 1) % len(row)))
    with pytest.raises(AssertionError):
        assert_right(HistoryRunner(), REQUESTS, Scorer(HistoryRunner(), "all").score(REQUESTS))


def test_a_choice_shifted_by_one_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = Scorer._rows_of

    def shifted(self: Scorer, context: Any, choice: Any, **kwargs: Any) -> list[Logits]:
        rows = true(self, context, (*choice, 0), **kwargs)
        return rows[1:]

    monkeypatch.setattr(Scorer, "_rows_of", shifted)
    with pytest.raises(AssertionError):
        assert_right(HistoryRunner(), REQUESTS, Scorer(HistoryRunner(), "all").score(REQUESTS))


def test_answers_that_are_not_put_back_in_order_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = Scorer._order
    requests = [dataclasses.replace(each) for each in REQUESTS]
    found = Scorer(HistoryRunner(), "all").score(requests)
    mixed = [
        found[index] for index in true(Scorer(HistoryRunner(), "all"), [(r.context, r.choice) for r in requests])
    ]
    assert mixed != found
    with pytest.raises(AssertionError):
        assert_right(HistoryRunner(), requests, mixed)
