"""`helium-edge push`: a bundle to a phone, over adb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import _console
from ._format import size
from ._options import BundleArgument, JsonOption, RevisionOption, UnverifiedOption, revision_words

if TYPE_CHECKING:
    from helium_edge.push import Adb, Step

EPILOG = """\b
Examples:
  helium-edge push tiny
  helium-edge push tiny --dry-run
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("push", short_help="Send a bundle to a phone and open the app.", epilog=EPILOG)(push)


def push(
    bundle: BundleArgument,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Folder on the phone; by default the bundle's own.", show_default=False),
    ] = None,
    serial: Annotated[
        str | None,
        typer.Option(
            metavar="SERIAL", help="The device, when there are several: see `adb devices`.", show_default=False
        ),
    ] = None,
    launch: Annotated[bool, typer.Option(help="Open the app with the bundle afterwards.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent; send nothing.")] = False,
    revision: RevisionOption = None,
    unverified: UnverifiedOption = False,
    as_json: JsonOption = False,
) -> None:
    """Send a bundle to a phone over adb and open the app with it.

    Files that the phone has are left, and a transfer that was cut off goes on where it ended: size and sha256
    tell. The manifest goes last.
    """
    from helium_edge import push as transfer
    from helium_edge.bundle import open_bundle, resolve_bundle

    opened = open_bundle(resolve_bundle(bundle, revision=revision), unverified=unverified)
    target = transfer.target_folder(opened, name)
    adb = _device(serial, dry_run=dry_run)
    steps = transfer.plan(opened, adb, target)
    launched = False
    if not dry_run and adb is not None:
        total = sum(step.remaining for step in steps if step.action != "there")
        with _console.progress() as progress:
            progress.stage("send", total, "B")
            transfer.push(opened, adb, target, steps, progress)
        launched = launch and transfer.launch(adb, target)
    if as_json:
        device = None if adb is None else adb.serial
        _console.document(
            {**_report(bundle, target, steps), "device": device, "launched": launched, "dry_run": dry_run}
        )
        return
    _show(bundle, target, steps, adb, dry_run=dry_run)
    if launch and not dry_run and not launched:
        _console.note("the app is not installed or did not start: see android_demo/README.md")
    if dry_run:
        _console.next_step("push", bundle, *revision_words(revision))


def _device(serial: str | None, *, dry_run: bool) -> Adb | None:
    """The device; a dry run does without."""
    from helium_edge.errors import MissingToolError, UsageError
    from helium_edge.push import Adb

    try:
        return Adb(serial)
    except (MissingToolError, UsageError) as error:
        if not dry_run or serial is not None:
            raise
        _console.note(f"{error.message}: what a phone has already is not known")
        return None


def _show(bundle: Path, target: str, steps: list[Step], adb: Adb | None, *, dry_run: bool) -> None:
    words = (
        {"send": "to send", "resume": "to resume", "there": "there"}
        if dry_run
        else {"send": "sent", "resume": "resumed", "there": "was there"}
    )
    rows = [(step.path, size(step.nbytes), words[step.action]) for step in steps]
    _console.table(["file", "size", "state"], rows, right=["size"])
    sent = sum(step.remaining for step in steps if step.action != "there")
    where = "a phone" if adb is None else adb.serial
    _console.line(f"{bundle}: {size(sent)} {'to send' if dry_run else 'sent'} to {where}, {target}")


def _report(bundle: Path, target: str, steps: list[Step]) -> dict[str, Any]:
    files = [
        {"path": step.path, "bytes": step.nbytes, "action": step.action, "remaining_bytes": step.remaining}
        for step in steps
    ]
    sent = sum(step.remaining for step in steps if step.action != "there")
    return {"bundle": str(bundle), "target": target, "files": files, "sent_bytes": sent}
