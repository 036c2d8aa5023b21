"""Options and arguments that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BundleArgument = Annotated[
    Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle, or a Hub id: org/name.", show_default=False)
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]

RevisionOption = Annotated[
    str | None, typer.Option(metavar="REV", help="Branch, tag or commit of a Hub id.", show_default=False)
]

ThreadsOption = Annotated[
    int, typer.Option(min=0, metavar="N", help="Threads of one operator; 0 lets the runtime choose.")
]

StaticOption = Annotated[
    bool,
    typer.Option("--static", help="Run the pair of static graphs, as phones do, instead of the one for both."),
]

UnverifiedOption = Annotated[
    bool, typer.Option("--unverified", help="Load the bundle even if its checksums do not match.")
]

HtmlOption = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="Write one self-contained HTML page.", show_default=False),
]

JunitOption = Annotated[
    Path | None,
    typer.Option("--junit", metavar="FILE", help="Write JUnit XML: each check a test case.", show_default=False),
]

MarkdownOption = Annotated[
    Path | None,
    typer.Option("--markdown", metavar="FILE", help="Write verdict and table as Markdown.", show_default=False),
]

BaselineOption = Annotated[
    Path | None,
    typer.Option(
        "--baseline",
        metavar="FILE",
        help="Also fail where this earlier run was better by more than three standard errors.",
        show_default=False,
    ),
]

UpdateBaselineOption = Annotated[
    bool, typer.Option("--update-baseline", help="Write the baseline instead, if the run passes.")
]


def revision_words(revision: str | None) -> tuple[str, ...]:
    """The option again, for the command that is useful next."""
    return () if revision is None else ("--revision", revision)
