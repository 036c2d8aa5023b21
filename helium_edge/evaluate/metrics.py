"""What answers come to: right or wrong, by how much, and figures of whole corpora, BLEU and chrF."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from helium_edge.errors import MissingDependencyError
from helium_edge.evaluate.paired import Floats
from helium_edge.evaluate.prompts import Item
from helium_edge.evaluate.scorer import ChoiceScore

Counts = npt.NDArray[np.int64]

BLEU_ORDER = 4
CHRF_ORDER = 6
CHRF_BETA = 2.0


@dataclass(frozen=True)
class Answer:
    """What one model said to one question.

    Attributes:
        scores: Of each choice; empty where the model wrote.
        text: What it wrote.
    """

    scores: tuple[ChoiceScore, ...] = ()
    text: str = ""


@dataclass(frozen=True)
class Judged:
    """Answers of one model to the questions of a task, in their order.

    Attributes:
        metric: `accuracy`, `accuracy_per_character`, `exact_match`, `bleu` or `chrf`.
        right: (n,) 1 where an answer is right; None of a corpus.
        picks: What was chosen or written.
        margins: (n,) log p(right) less that of the best wrong choice, nats; None where the model writes.
        counts: (n, K) counts that add up over a corpus; None of right and wrong answers.
        figure: Figures, 0 to 1, of sums of such counts, (D, K) to (D,).
    """

    metric: str
    picks: list[Any]
    right: Floats | None = None
    margins: Floats | None = None
    counts: Counts | None = None
    figure: Callable[[Floats], Floats] | None = field(default=None, compare=False)

    @property
    def value(self) -> float:
        """The figure of all questions, 0 to 1."""
        if self.right is not None:
            return float(self.right.mean())
        assert self.counts is not None
        assert self.figure is not None
        return float(self.figure(self.counts.sum(axis=0, keepdims=True).astype(np.float64))[0])


def judge_answers(
    items: Sequence[Item], answers: Sequence[Answer], *, corpus: bool, by_length: bool
) -> list[Judged]:
    """Judge the answers to a task.

    Args:
        items: Its questions.
        answers: To each of them.
        corpus: They are translations, which BLEU and chrF judge together.
        by_length: The log-probability of a choice is divided by its characters.

    Raises:
        MissingDependencyError: BLEU needs sacrebleu.
    """
    if corpus:
        texts = [answer.text.strip() for answer in answers]
        pairs = [(text, item.accepted[0]) for item, text in zip(items, texts, strict=True)]
        return [
            Judged("bleu", texts, counts=bleu_counts(pairs), figure=bleu),
            Judged("chrf", texts, counts=np.stack([chrf_counts(*pair) for pair in pairs]), figure=chrf),
        ]
    if items[0].continuation is not None:
        texts = [plain(answer.text) for answer in answers]
        right = [text in map(plain, item.accepted) for item, text in zip(items, texts, strict=True)]
        return [Judged("exact_match", texts, np.array(right, np.float64))]
    picks, margins = [], []
    for item, answer in zip(items, answers, strict=True):
        values = np.array([score.log_probability for score in answer.scores]) / item.lengths
        picks.append(int(values.argmax()))
        margins.append(values[item.answer] - np.delete(values, item.answer).max())
    found = [float(pick == item.answer) for pick, item in zip(picks, items, strict=True)]
    metric = "accuracy_per_character" if by_length else "accuracy"
    return [Judged(metric, picks, np.array(found), np.array(margins))]


def plain(text: str) -> str:
    """A text without case, punctuation and superfluous blanks, as exact match compares it."""
    kept = (char for char in unicodedata.normalize("NFC", text.casefold()) if unicodedata.category(char)[0] != "P")
    return " ".join("".join(kept).split())


def bleu_counts(pairs: Sequence[tuple[str, str]]) -> Counts:
    """Counts of each sentence, (n, 10): n-grams that match and n-grams, of 1 to 4 words; and both lengths.

    Args:
        pairs: Translation and reference. Words are those of sacrebleu's tokenizer 13a.

    Raises:
        MissingDependencyError: sacrebleu is not installed.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise MissingDependencyError("sacrebleu", extra="eval", purpose="BLEU") from error
    scorer = BLEU(effective_order=True)  # of sentences alone; the counts are the same
    found = [scorer.sentence_score(text, [reference]) for text, reference in pairs]
    return np.array([[*each.counts, *each.totals, each.sys_len, each.ref_len] for each in found], np.int64)


def bleu(sums: Floats) -> Floats:
    """BLEU, 0 to 1, of sums of `bleu_counts`, (D, 10) to (D,).

    Orders without a match count as half of one, then a quarter and so on, as sacrebleu's `exp` smoothing has it.
    """
    matches, totals = sums[:, :BLEU_ORDER], sums[:, BLEU_ORDER : 2 * BLEU_ORDER]
    length, reference = sums[:, -2], sums[:, -1]
    empty = np.cumsum((matches == 0) & (totals > 0), axis=1)
    smoothed = np.where(matches > 0, matches, 0.5**empty)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(totals > 0, smoothed / totals, 0.0)
        brevity = np.exp(np.minimum(0.0, 1 - reference / length))
        found = brevity * np.exp(np.log(precision).mean(axis=1))
    return np.where((matches.sum(axis=1) > 0) & (totals > 0).all(axis=1), np.nan_to_num(found), 0.0)


def chrf_counts(text: str, reference: str) -> Counts:
    """Counts of one sentence, (18,): n-grams of the text, of the reference and of both, of 1 to 6 characters.

    Blanks do not count, nor do n-grams that are longer than the reference, as in sacrebleu.
    """
    one, other = "".join(text.split()), "".join(reference.split())
    counts = []
    for order in range(1, CHRF_ORDER + 1):
        mine, theirs = (
            Counter(each[at : at + order] for at in range(len(each) - order + 1)) for each in (one, other)
        )
        counts += [sum(mine.values()) if theirs else 0, sum(theirs.values()), sum((mine & theirs).values())]
    return np.array(counts, np.int64)


def chrf(sums: Floats) -> Floats:
    """chrF2, 0 to 1, of sums of `chrf_counts`, (D, 18) to (D,): F score of the orders' mean precision and recall.

    Popovic, "chrF: character n-gram F-score", WMT 2015. Orders that one of the two has none of do not count.
    """
    mine, theirs, both = (sums[:, start::3] for start in range(3))
    known = (mine > 0) & (theirs > 0)
    orders = np.maximum(known.sum(axis=1), 1)
    precision = np.where(known, both / np.maximum(mine, 1), 0.0).sum(axis=1) / orders
    recall = np.where(known, both / np.maximum(theirs, 1), 0.0).sum(axis=1) / orders
    weight = CHRF_BETA**2
    below = weight * precision + recall
    return np.where(below > 0, (1 + weight) * precision * recall / np.where(below > 0, below, 1.0), 0.0)
