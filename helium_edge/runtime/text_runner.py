"""`TextRunner`: one way to run a classifier or encoder, whatever runs it; and scores out of logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from helium_edge.errors import UsageError
from helium_edge.signature import TextSignature

Array = npt.NDArray[np.float32]


class TextRunner(Protocol):
    """A graph that takes a whole text.

    Attributes:
        signature: Its input and output.
    """

    signature: TextSignature

    def run(self, ids: Sequence[int]) -> Array:
        """Run a text of at most T tokens; the rest of the input is padding.

        Returns:
            (L,) logits of the text, (len(ids), L) logits of its tokens, or (len(ids), C) hidden states. The array
            is the caller's.

        Raises:
            UsageError: No tokens, too many, or an id outside the vocabulary.
        """
        ...


def padded(signature: TextSignature, ids: Sequence[int]) -> npt.NDArray[np.int64]:
    """The input of a graph: the ids of a text, then padding, (1, T).

    Padding on the right changes nothing: no real token sees it, and the position that stands for a text is found
    from the ids. Where no id is said to be padding, any will do for models that return a row for each token.

    Raises:
        UsageError: No tokens, too many, an id outside the vocabulary, or a text to classify that needs padding
            where the model has no id for it.
    """
    if not len(ids):
        raise UsageError("no tokens to run: at least one is needed")
    if len(ids) > signature.tokens:
        raise UsageError(
            f"the text has {len(ids)} tokens, the graph takes {signature.tokens}",
            hint="shorten the text, or export with a larger --prefill-len",
        )
    bad = next((token for token in ids if not 0 <= token < signature.vocab_size), None)
    if bad is not None:
        raise UsageError(f"token id {bad} is outside the vocabulary of {signature.vocab_size}")
    pad = signature.pad_token_id
    if pad is None and len(ids) < signature.tokens and signature.task.pools:
        raise UsageError(f"the model has no padding id: give exactly {signature.tokens} tokens")
    filled = np.full((1, signature.tokens), 0 if pad is None else pad, np.int64)
    filled[0, : len(ids)] = ids
    return filled


def real_rows(signature: TextSignature, output: Array, ids: Sequence[int]) -> Array:
    """What a graph returned without its batch and without the rows of padding, as a new array."""
    rows: Array = output[0] if signature.task.pools else output[0, : len(ids)]
    return rows.copy()


def scores(logits: Array, problem_type: str | None) -> Array:
    """Scores of labels from logits, along the last axis, as transformers' pipelines compute them.

    Softmax, or a sigmoid of each where several labels may hold or there is one alone; logits of a regression are
    its result.
    """
    if problem_type == "regression":
        return logits
    if problem_type == "multi_label_classification" or logits.shape[-1] == 1:
        with np.errstate(over="ignore"):  # of a very unlikely label: 1 / infinity is 0
            return np.asarray(1.0 / (1.0 + np.exp(-logits)), np.float32)
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True), np.float32)
