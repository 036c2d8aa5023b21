"""`helium-edge verify`: is a folder exactly the bundle that its manifest describes?"""

from __future__ import annotations

from typing import Annotated

import typer

from . import _console
from ._options import BundleArgument, JsonOption, RevisionOption, revision_words

EPILOG = """\b
Examples:
  helium-edge verify tiny
  helium-edge verify org/tiny --revision v1 --manifest-sha256 HASH
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("verify", short_help="Check every file of a bundle.", epilog=EPILOG)(verify)


def verify(
    bundle: BundleArgument,
    revision: RevisionOption = None,
    manifest_sha256: Annotated[
        str | None,
        typer.Option(
            metavar="HASH",
            help="Also refuse every bundle but the one whose manifest has this.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check every file of a bundle against its manifest: sizes, checksums, links, graph inputs and outputs.

    Ends with exit code 3 and the name of the file when something does not match. The sha256 of the manifest, which
    lists those of all files, tells one bundle from another.
    """
    from helium_edge.bundle import check_pin, manifest_hash, open_bundle, resolve_bundle, verify_bundle

    folder = resolve_bundle(bundle, revision=revision)
    if manifest_sha256 is not None:
        check_pin(folder, manifest_sha256)
    checks = verify_bundle(folder)
    found = manifest_hash(open_bundle(folder, unverified=True))
    if as_json:
        rows = [{"subject": check.subject, "result": check.result} for check in checks]
        _console.document({"bundle": str(bundle), "verified": True, "manifest_sha256": found, "checks": rows})
    else:
        _console.table(["checked", "result"], [(check.subject, check.result) for check in checks])
        _console.line(f"{bundle}: intact, {len(checks)} checks; manifest sha256 {found}")
    _console.next_step("parity", bundle, *revision_words(revision))
