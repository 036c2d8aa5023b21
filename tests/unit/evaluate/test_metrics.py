"""Figures of answers: exact match, BLEU and chrF against sacrebleu, and models whose answers are known."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from helium_edge.evaluate.metrics import (
    Answer,
    bleu,
    bleu_counts,
    chrf,
    chrf_counts,
    judge_answers,
    plain,
)
from helium_edge.evaluate.plan import PlannedTask, plan
from helium_edge.evaluate.scorer import ChoiceScore
from helium_edge.evaluate.task import shipped_tasks
from helium_edge.report.evaluation import change
from tests.helpers.evaluation import write_data

WORDS = "the sensor reads a low value, then writes the value . W\u00e4rme f\u00e4llt heute aus !".split()  # noqa: SIM905


def sentences(seed: int, count: int) -> list[tuple[str, str]]:
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        reference = [rng.choice(WORDS) for _ in range(rng.randint(1, 14))]
        text = [word for word in reference if rng.random() > 0.2] or ["x"]
        if rng.random() < 0.4:
            text[rng.randrange(len(text))] = rng.choice(WORDS)
        pairs.append((" ".join(text), " ".join(reference)))
    return pairs


@pytest.mark.parametrize("seed", range(6))
def test_corpus_figures_are_those_of_sacrebleu(seed: int) -> None:
    pairs = sentences(seed, (1, 2, 5, 30, 30, 100)[seed])
    texts, references = zip(*pairs, strict=True)
    sums = bleu_counts(pairs).sum(axis=0, keepdims=True).astype(float)
    assert 100 * bleu(sums)[0] == pytest.approx(BLEU().corpus_score(texts, [references]).score, abs=1e-9)
    sums = np.stack([chrf_counts(*pair) for pair in pairs]).sum(axis=0, keepdims=True).astype(float)
    assert 100 * chrf(sums)[0] == pytest.approx(CHRF().corpus_score(texts, [references]).score, abs=1e-9)


def test_figures_of_nothing_alike_are_zero() -> None:
    pairs = [("alpha beta gamma delta", "wozu noch mehr sagen")]
    assert bleu(bleu_counts(pairs).sum(axis=0, keepdims=True).astype(float))[0] == 0.0
    assert chrf(chrf_counts("xyz", "abc")[None].astype(float))[0] == 0.0
    assert chrf(chrf_counts("", "abc")[None].astype(float))[0] == 0.0


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("The Nile.", "the  nile", True), ("9/11", "911", True), ("Zürich", "zurich", False), (" ", "", True)],
)
def test_exact_match_looks_past_case_punctuation_and_blanks(one: str, other: str, same: bool) -> None:
    assert (plain(one) == plain(other)) is same


# -- models whose answers are known, on every task that ships


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> list[PlannedTask]:
    """Every task of ours, with made-up documents of its kind."""
    folder = tmp_path_factory.mktemp("data")
    rng = random.Random(1)
    documents: dict[str, Any] = {
        "choice": lambda n: {
            "question": f"The cat _ number {n} here.",
            "choices": [f"choice {n} {letter * (place + 1)}" for place, letter in enumerate("abcd")],
            "answer": rng.randrange(4),
        },
        "answer": lambda n: {"question": f"Which is {n}?", "answers": [f"Answer {n}", f"The {n}th"]},
        "translation": lambda n: {
            "source": f"House number {n} is far away.",
            "target": f"Haus Nummer {n} ist weit weg.",
        },
    }
    names = []
    for name, tasks in shipped_tasks().items():
        names.append(name)
        for each in tasks:
            if each.built_in is None:
                made = [documents[each.kind](n) for n in range(20)]
                write_data(folder, each.name, made[5:], made[:5])
    return plan(names, folder, 20)


def choosing(task: PlannedTask, pick: Any) -> list[Answer]:
    """A model that gives all its trust to one choice, per character, or writes one accepted answer."""
    found = []
    for item in task.items:
        if item.continuation is not None:
            found.append(Answer(text=f" {item.accepted[pick(item)]}."))
            continue
        values = [-9.0 * length for length in item.lengths]
        values[pick(item)] = -1.0 * item.lengths[pick(item)]
        found.append(Answer(tuple(ChoiceScore(value, False) for value in values)))
    return found


def test_a_model_that_knows_is_perfect_on_every_task(planned: list[PlannedTask]) -> None:
    assert {task.asked.task.kind for task in planned} == {"choice", "answer", "translation"}
    for task in planned:
        translation = task.asked.task.kind == "translation"
        answers = choosing(task, lambda item: item.answer if item.pairs else -1)
        if translation:
            answers = [Answer(text=f" {item.accepted[0]}") for item in task.items]
        judged = judge_answers(task.items, answers, corpus=translation, by_length=task.asked.form == "cloze")
        assert [each.value for each in judged] == pytest.approx([1.0] * (1 + translation)), task.asked
        for each in judged:
            assert each.margins is None or (each.margins > 0).all()


def test_a_model_that_takes_the_first_choice_gets_the_share_of_the_data(planned: list[PlannedTask]) -> None:
    for task in planned:
        if task.asked.task.kind != "choice":
            continue
        first = sum(item.answer == 0 for item in task.items) / len(task.items)
        by_length = task.asked.form == "cloze"
        (judged,) = judge_answers(task.items, choosing(task, lambda _: 0), corpus=False, by_length=by_length)
        assert judged.value == pytest.approx(first)
        assert judged.picks == [0] * len(task.items)


def test_prompts_of_all_forms(planned: list[PlannedTask]) -> None:
    found = {(task.asked.task.name, task.asked.form): task.items[0] for task in planned}
    letters = found["mmlu", "letters"]
    context, choice = letters.pairs[1]
    assert context.startswith("The following are multiple choice questions (with answers) about .\n\n")
    assert context.endswith("\nAnswer:")
    assert choice == " B"
    assert context.count("Answer:") == 6
    cloze = found["arc_easy", "cloze"]
    assert cloze.pairs[2][1] == f" {cloze.question.data['choices'][2]}"
    assert cloze.lengths == tuple(map(len, cloze.question.data["choices"]))
    blank = found["winogrande", "blank"]
    assert {end for _, end in blank.pairs} == {blank.question.data["question"].split("_")[1]}
    assert blank.pairs[1][0].endswith(f"The cat {blank.question.data['choices'][1]}")
    flores = found["flores_en_de", "generate"].continuation
    assert flores is not None
    assert flores.prompt.count("English: ") == 6
    assert flores.prompt.endswith("\nDeutsch:")
    assert found["mkqa_de", "generate"].continuation.prompt.endswith("\nAntwort:")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (0.0, 0.0, ("0", "")),
        (-1.25, 0.4, ("\u22121.2", "0.4")),
        (2.2e-8, 1e-9, ("+2.2\u00d710\u207b\u2078", "1\u00d710\u207b\u2079")),
        (-0.001, 1.0, ("0.0", "1.0")),
        (None, None, ("\u2013", "")),
    ],
)
def test_changes_have_a_sign_where_they_show_one(value: Any, error: Any, expected: tuple[str, str]) -> None:
    assert change(value, error) == expected
