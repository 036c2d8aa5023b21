"""`helium-edge classify`: the labels that a bundle gives a text, or its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from helium_edge.errors import UsageError

from . import _console
from ._options import BundleArgument, JsonOption, ThreadsOption, UnverifiedOption

if TYPE_CHECKING:
    from helium_edge.runtime.heads import Array

EPILOG = """\b
Examples:
  helium-edge classify topics "The sensor reads 21 degrees"
  helium-edge classify topics "The sensor reads 21 degrees" --json
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("classify", short_help="Label a text with a bundle.", epilog=EPILOG)(classify)


def classify(
    bundle: BundleArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to label.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Labels to show, best first.")] = 5,
    threads: ThreadsOption = 0,
    unverified: UnverifiedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Label a text, or each of its tokens, with scores; for bundles of classifiers.

    Scores are those of the model's kind: shares that add up to 1, a probability for each label where several may
    hold, or the value itself of a regression.
    """
    from helium_edge.bundle import open_bundle, open_head
    from helium_edge.runtime.heads import scores
    from helium_edge.runtime.tokenizer import Tokenizer

    opened = open_bundle(bundle, unverified=unverified)
    manifest = opened.manifest
    signature = manifest.head_signature()
    assert manifest.head is not None
    if not manifest.head.labels:
        raise UsageError(
            f"{bundle}: {manifest.model.architecture} has no labels, it returns hidden states",
            hint="`helium-edge inspect` shows the output; an app reads it from the graph",
        )
    tokenizer = Tokenizer(opened.path(manifest.tokenizer.file))
    ids = tokenizer.encode(text)
    logits = open_head(opened, threads=threads).run(ids)
    found = scores(logits, manifest.head.problem_type)
    labels = manifest.head.labels
    document: dict[str, Any] = {"bundle": str(bundle), "text": text, "ids": ids}
    if signature.head == "sequence_classification":
        document["labels"] = _ranked(labels, found, logits, len(labels))
        if not as_json:
            rows = [(row["label"], f"{row['score']:.4f}") for row in document["labels"][:top]]
            _console.table(["label", "score"], rows, right=["score"])
    else:
        tokens = [
            {"id": token, "text": tokenizer.decode([token]), "labels": _ranked(labels, found[i], logits[i], top)}
            for i, token in enumerate(ids)
        ]
        document["tokens"] = tokens
        if not as_json:
            _show_tokens(tokens)
    if as_json:
        _console.document(document)
    _console.next_step("parity", bundle)


def _ranked(labels: tuple[str, ...], scores: Array, logits: Array, count: int) -> list[dict[str, Any]]:
    """The best labels, best first, with their scores."""
    order = sorted(range(len(labels)), key=lambda index: -float(logits[index]))[:count]
    return [
        {"label": labels[index], "score": float(scores[index]), "logit": float(logits[index])} for index in order
    ]


def _show_tokens(tokens: list[dict[str, Any]]) -> None:
    rows = [
        (token["text"] or f"<{token['id']}>", best["label"], f"{best['score']:.4f}")
        for token in tokens
        for best in token["labels"][:1]
    ]
    _console.table(["token", "label", "score"], rows, right=["score"])
