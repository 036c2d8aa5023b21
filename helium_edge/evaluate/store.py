"""Answers on disk, by everything that decides about them; so that none is computed twice.

A folder `answers/KEY` holds what one model said to one task: `about.json`, which says what the key is the hash of,
and files of JSON lines with some answers each, which appear by one rename. Any number of processes may write; what
two of them compute twice is the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from helium_edge import durable
from helium_edge.documents import DocumentError, parse_json
from helium_edge.errors import ResourceError, UsageError
from helium_edge.evaluate.keys import VERSION, key_of
from helium_edge.evaluate.metrics import Answer
from helium_edge.evaluate.scorer import ChoiceScore


class AnswerStore:
    """Answers by key and document.

    Args:
        folder: Where they are kept; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, about: Mapping[str, Any]) -> dict[str, Answer]:
        """Answers that are known, by the sha256 of their documents; what is torn or foreign is not."""
        found: dict[str, Answer] = {}
        place = self._place(about)
        for path in sorted(place.glob("*.jsonl")) if place.is_dir() else ():
            found |= _read(path)
        return found

    def write(self, about: Mapping[str, Any], answers: Mapping[str, Answer]) -> None:
        """Publish answers.

        Raises:
            UsageError: The folder cannot be written.
            ResourceError: The disk is full.
        """
        lines = [_line(document, answer) for document, answer in sorted(answers.items())]
        data = "".join(lines).encode("utf-8")
        place = self._place(about)
        try:
            place.mkdir(parents=True, exist_ok=True)
            _publish(place / "about.json", json.dumps({"version": VERSION, **about}, sort_keys=True).encode())
            _publish(place / f"{hashlib.sha256(data).hexdigest()[:32]}.jsonl", data)
        except OSError as error:
            if error.errno in durable.NO_SPACE:
                raise ResourceError(f"{self._folder}: no space for answers", hint="free some") from error
            raise UsageError(
                f"{self._folder}: answers cannot be written: {error.strerror}", hint="name another --store"
            ) from error

    def _place(self, about: Mapping[str, Any]) -> Path:
        return self._folder / "answers" / key_of(about)


def _read(path: Path) -> dict[str, Answer]:
    """Answers of a file; none where it is torn, and they are computed again."""
    try:
        return dict(_answer(parse_json(line)) for line in path.read_bytes().splitlines())
    except (OSError, DocumentError, ValueError, KeyError, TypeError):
        return {}


def _publish(path: Path, data: bytes) -> None:
    if path.exists():
        return
    with durable.replacing(path) as beside:
        durable.write_file(beside, data)
    durable.sync_renamed(path.parent)


def _line(document: str, answer: Answer) -> str:
    data: dict[str, Any] = {"document": document}
    if answer.scores:
        data["scores"] = [[score.log_probability, score.greedy] for score in answer.scores]
    else:
        data["text"] = answer.text
    return json.dumps(data, sort_keys=True, ensure_ascii=False) + "\n"


def _answer(data: Any) -> tuple[str, Answer]:
    scores = tuple(ChoiceScore(float(value), bool(greedy)) for value, greedy in data.get("scores", ()))
    if not scores and not isinstance(data["text"], str):
        raise ValueError("no answer")
    return str(data["document"]), Answer(scores, data.get("text", ""))
