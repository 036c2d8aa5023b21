"""What a model is for, and what follows from that alone: a `Task` is asked, nobody compares its name.

There are four: a language model continues a text, step by step over a cache; the others take a whole text at once
and return hidden states, logits of the text, or logits of each token. What a layer adds to a task (how a bundle is
tried out, compared, shown) it keeps in one table by task.

Shapes: T tokens, V vocabulary, C hidden_size, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

TextTaskName = Literal["hidden_states", "sequence_classification", "token_classification"]
TaskName = Literal["language_model", TextTaskName]

LM_HEAD = "lm_head.weight"
SCORE = "score.weight"


@dataclass(frozen=True)
class Task:
    """What a model returns.

    Attributes:
        name: As manifests (`head.kind`) and parity documents (`head`) have it.
        suffix: How the names of its classes end in config.json, after the family.
        pipeline_tag: As the Hugging Face Hub calls it.
        has_cache: Whether it generates text over a KV cache; else its graph takes a whole text.
        has_labels: Whether its logits are those of labels.
        pools: Whether one row stands for the text, that of its last token; else each token has a row.
        output: Name of the tensor that its graph returns first, as transformers calls it.
        role: What that is for.
        weight: The matrix behind the final norm; None where hidden states are what is returned.
    """

    name: TaskName
    suffix: str
    pipeline_tag: str
    has_cache: bool = False
    has_labels: bool = False
    pools: bool = False
    output: Literal["logits", "last_hidden_state"] = "logits"
    role: Literal["logits", "hidden_states"] = "logits"
    weight: str | None = SCORE

    @property
    def words(self) -> str:
        """The name for people."""
        return self.name.replace("_", " ")

    def returned_shape(self, tokens: int, width: int) -> tuple[int, ...]:
        """(1, width) where one row stands for the text, else (1, T, width); width is L or C."""
        return (1, width) if self.pools else (1, tokens, width)


LANGUAGE_MODEL = Task("language_model", "ForCausalLM", "text-generation", has_cache=True, weight=LM_HEAD)
ENCODER = Task(
    "hidden_states",
    "Model",
    "feature-extraction",
    output="last_hidden_state",
    role="hidden_states",
    weight=None,
)
SEQUENCE_CLASSIFICATION = Task(
    "sequence_classification", "ForSequenceClassification", "text-classification", has_labels=True, pools=True
)
TOKEN_CLASSIFICATION = Task(
    "token_classification", "ForTokenClassification", "token-classification", has_labels=True
)

TASKS: Mapping[str, Task] = {
    task.name: task for task in (LANGUAGE_MODEL, ENCODER, SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION)
}
"""All tasks by name."""

TEXT_TASKS = tuple(task for task in TASKS.values() if not task.has_cache)
"""Those whose graph takes a whole text."""
