"""`helium-edge verify`: is a folder exactly the bundle that its manifest describes?"""

from __future__ import annotations

import typer

from . import _console
from ._options import BundleArgument, JsonOption

EPILOG = """\b
Example:
  helium-edge verify tiny
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify", short_help="Check every file of a bundle.", epilog=EPILOG)(verify)


def verify(bundle: BundleArgument, as_json: JsonOption = False) -> None:
    """Check every file of a bundle against its manifest: sizes, checksums, links, graph inputs and outputs.

    Ends with exit code 3 and the name of the file when something does not match.
    """
    from helium_edge.bundle import verify_bundle

    checks = verify_bundle(bundle)
    if as_json:
        found = [{"subject": check.subject, "result": check.result} for check in checks]
        _console.document({"bundle": str(bundle), "verified": True, "checks": found})
    else:
        _console.table(["checked", "result"], [(check.subject, check.result) for check in checks])
        _console.line(f"{bundle}: intact, {len(checks)} checks")
    _console.next_step("parity", bundle)
