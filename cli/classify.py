"""`helium-edge classify`: the labels that a bundle gives a text, or its tokens."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from . import _console
from ._options import BundleArgument, JsonOption, RevisionOption, ThreadsOption, UnverifiedOption, revision_words

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
    revision: RevisionOption = None,
    threads: ThreadsOption = 0,
    unverified: UnverifiedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Label a text, or each of its tokens, with scores; for bundles of classifiers.

    Scores are those of the model's kind: shares that add up to 1, a probability for each label where several may
    hold, or the value itself of a regression.
    """
    from helium_edge.bundle import open_bundle, resolve_bundle
    from helium_edge.first_run import ensure_runs
    from helium_edge.generation import classifier

    opened = open_bundle(resolve_bundle(bundle, revision=revision), unverified=unverified)
    ensure_runs(opened, unverified=unverified)
    model = classifier(opened, threads=threads)
    document: dict[str, Any] = {"bundle": str(bundle), "text": text, "ids": model.ids(text)}
    if model.labels_tokens:
        tokens = [asdict(token) for token in model.classify_tokens(text)]
        document["tokens"] = [{**token, "labels": token["labels"][:top]} for token in tokens]
        if not as_json:
            _show_tokens(tokens)
    else:
        document["labels"] = [asdict(label) for label in model.classify(text)]
        if not as_json:
            rows = [(row["label"], f"{row['score']:.4f}") for row in document["labels"][:top]]
            _console.table(["label", "score"], rows, right=["score"])
    if as_json:
        _console.document(document)
    _console.next_step("parity", bundle, *revision_words(revision))


def _show_tokens(tokens: list[dict[str, Any]]) -> None:
    rows = [
        (token["text"] or f"<{token['id']}>", best["label"], f"{best['score']:.4f}")
        for token in tokens
        for best in token["labels"][:1]
    ]
    _console.table(["token", "label", "score"], rows, right=["score"])
