"""Questions made of the built-in evaluation texts: which of four passages goes on?"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from helium_edge.texts import evaluation_text

_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_LEAST_WORDS = 6


def continuation_questions(language: str) -> Iterator[dict[str, Any]]:
    """Documents of kind `choice`: the start of a paragraph, its next sentence or the end of one, and three others.

    Which others, and where the right one stands, is decided by hashes, so the questions never change.

    Raises:
        UsageError: No text in that language.
    """
    paragraphs = [
        _SENTENCE.split(" ".join(paragraph.split()))
        for paragraph in evaluation_text(language).split("\n\n")
        if paragraph.strip()
    ]
    for number, sentences in enumerate(paragraphs):
        others = [each for at, other in enumerate(paragraphs) if at != number for each in other]
        for index, sentence in enumerate(sentences):
            before = " ".join(sentences[:index])
            if before:
                yield _document(f"{language}/{number}/{index}", before, sentence, others)
            for third in (1, 2):
                start, end = _cut(sentence, third)
                if start:
                    ends = [_cut(each, third)[1] for each in others if _cut(each, third)[0]]
                    yield _document(f"{language}/{number}/{index}/{third}", f"{before} {start}".strip(), end, ends)


def _cut(sentence: str, third: int) -> tuple[str, str]:
    """A sentence cut after one or two thirds of its words; nothing of one that is short."""
    words = sentence.split()
    if len(words) < _LEAST_WORDS:
        return "", ""
    place = third * len(words) // 3
    return " ".join(words[:place]), " ".join(words[place:])


def _document(name: str, question: str, right: str, others: list[str]) -> dict[str, Any]:
    wrong = sorted({each for each in others if each != right}, key=lambda each: _hash(name, each))[:3]
    answer = int(_hash(name, "place"), 16) % 4
    return {
        "id": name,
        "question": question,
        "choices": [*wrong[:answer], right, *wrong[answer:]],
        "answer": answer,
    }


def _hash(name: str, text: str) -> str:
    return hashlib.sha256(f"{name}\0{text}".encode()).hexdigest()
