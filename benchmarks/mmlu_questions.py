"""The MMLU development questions that lie in lm-eval's wheel, 273 that parse, with their answers."""

from __future__ import annotations

import importlib.resources
import re
from typing import Any

import yaml

_QUESTION = re.compile(r"(.*?)\n\(A\) (.*?) \(B\) (.*?) \(C\) (.*?) \(D\) (.*)$", re.DOTALL)
_ANSWER = re.compile(r"answer is \(?([ABCD])\)?")


def mmlu_questions() -> list[dict[str, Any]]:
    folder = importlib.resources.files("lm_eval").joinpath("tasks", "mmlu", "flan_cot_fewshot")
    found = []
    files = (each for each in folder.iterdir() if each.name.startswith("mmlu_"))
    for file in sorted(files, key=lambda each: each.name):
        data = yaml.safe_load(re.sub(r"!function \S+", "x", file.read_text(encoding="utf-8")))
        for sample in data.get("fewshot_config", {}).get("samples", []):
            match, answer = _QUESTION.match(sample["question"]), _ANSWER.search(sample["target"])
            if match is None or answer is None:
                continue
            question, *choices = (part.strip() for part in match.groups())
            group = str(data["dataset_name"]).replace("_", " ")
            found.append(
                {
                    "id": len(found),  # one of them stands there twice
                    "group": group,
                    "question": question,
                    "choices": choices,
                    "answer": "ABCD".index(answer[1]),
                }
            )
    return found
