"""Options and arguments that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of a bundle.", show_default=False)]

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, nothing else.")]

RevisionOption = Annotated[
    str | None, typer.Option(metavar="REV", help="Branch, tag or commit of a Hub checkpoint.", show_default=False)
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
