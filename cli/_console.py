"""Output of all commands, and the only place that knows rich.

Results go to stdout, everything else (progress, notes, errors) to stderr. With `--json` a command prints one
document on stdout and nothing more. On a terminal there are colours and a live progress bar; into a pipe go plain
lines of at most 80 columns (COLUMNS changes that). NO_COLOR is honoured.
"""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._format import command_line, duration, plain, printable, size
from ._remaining import Remaining

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

    from helium_edge.errors import HeliumEdgeError

PIPE_WIDTH = 80
_GAP = 2
"""Spaces between the columns of a table."""
_STYLES = {"ok": "green", "better": "green", "FAILED": "bold red", "WORSE": "bold red", "GUILTY": "bold red"}
"""Verdicts in tables; their words say the same where there is no colour."""

REPORT_SECONDS = 10.0
"""Between two lines about one stage where there is no terminal."""
WATCH_SECONDS = 1.0
"""Between two looks at whether a line is due."""


def console(*, stderr: bool = False) -> Console:
    """A rich console for stdout or stderr as they are now."""
    from rich.console import Console

    class PlainConsole(Console):
        """Rich would end the process with 1 when the reader goes away; `main` knows what shells expect."""

        def on_broken_pipe(self) -> None:
            raise

    stream = sys.stderr if stderr else sys.stdout
    # Left alone, rich would take the width of the terminal behind another stream.
    columns = os.environ.get("COLUMNS", "")
    width = None if stream.isatty() else int(columns) if columns.isdecimal() and int(columns) else PIPE_WIDTH
    return PlainConsole(file=stream, width=width, highlight=False, markup=False, emoji=False)


def line(text: str, *, stderr: bool = False, style: str | None = None) -> None:
    """Print one line, however long; the terminal wraps it and a pipe gets it whole."""
    from rich.text import Text

    console(stderr=stderr).print(Text(plain(text), style=style or ""), soft_wrap=True)


def note(text: str) -> None:
    """Tell something beside the result."""
    line(text, stderr=True)


def next_step(*words: object) -> None:
    """Show the command that is useful next."""
    line(f"next: {command_line(*words)}", stderr=True, style="dim")


def title(text: str, *, stderr: bool = False) -> None:
    """Start the output."""
    line(text, stderr=stderr, style="bold")


def heading(text: str, *, stderr: bool = False) -> None:
    """Start a further part of the output."""
    line("", stderr=stderr)
    title(text, stderr=stderr)


def fields(pairs: Iterable[tuple[str, object]], *, stderr: bool = False) -> None:
    """Print names and values in two columns."""
    _grid([], [(f"{name}:", value) for name, value in pairs], (), stderr)


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Iterable[str] = (), stderr: bool = False
) -> None:
    """Print rows under headings; the columns named in `right` are aligned to the right."""
    _grid(columns, rows, right, stderr)


def _grid(columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str], stderr: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    content = [[plain(str(cell)) for cell in row] for row in rows]
    available = console(stderr=stderr).width
    widths = _widths([*([columns] if columns else []), *content], available)
    if columns and widths is None and available < PIPE_WIDTH:  # no room for columns: a line for each value
        for cells in content:
            line(cells[0], stderr=stderr)
            for name, cell in zip(columns[1:], cells[1:], strict=True):
                line(f"  {name}: {cell}", stderr=stderr)
        return
    grid = Table(box=None, show_header=bool(columns), pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for index, name in enumerate(columns or [""] * len(widths or ())):
        width = None if widths is None else widths[index]
        grid.add_column(name, justify="right" if name in right else "left", overflow="fold", width=width)
    for cells in content:
        grid.add_row(*(Text(cell, style=_STYLES.get(cell, ""), overflow="fold") for cell in cells))
    _print(grid, stderr)


def _widths(rows: Sequence[Sequence[str]], available: int) -> list[int] | None:
    """Widths of columns in which no word is broken; None where there is no room for that."""
    from rich.cells import cell_len

    columns = list(zip(*rows, strict=True))
    least = [max((cell_len(word) for text in column for word in text.split()), default=0) for column in columns]
    widths = [max(map(cell_len, column)) for column in columns]
    room = available - _GAP * (len(columns) - 1)
    if sum(least) > room:
        return None
    while sum(widths) > room:  # the widest gives way
        index = max((each for each in range(len(widths)) if widths[each] > least[each]), key=widths.__getitem__)
        widths[index] -= 1
    return widths


def _print(renderable: RenderableType, stderr: bool) -> None:
    target = console(stderr=stderr)
    if target.is_terminal:
        target.print(renderable)
        return
    with target.capture() as capture:
        target.print(renderable)
    for text in capture.get().splitlines():
        target.file.write(text.rstrip() + "\n")


def document(data: Any) -> None:
    """Print the one JSON document of a command; what is not finite becomes null."""
    text = json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(_finite(data), indent=2, allow_nan=False)
    sys.stdout.write(text + "\n")


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {str(key): _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def raw(text: str) -> None:
    """Write foreign text to stdout at once: unchanged into a pipe, made harmless on a terminal."""
    sys.stdout.write(printable(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def failure(error: HeliumEdgeError, *, as_json: bool) -> None:
    """Report an error: the line and its remedy on stderr and, with `--json`, a document on stdout."""
    line_with_label("error", error.message, "bold red")
    if error.hint:
        line_with_label("hint", error.hint, "bold cyan")
    if as_json:
        report = getattr(error, "report", None)
        details = {"message": error.message, "hint": error.hint, "exit_code": error.exit_code}
        document(
            {"error": details, **({} if report is None else {getattr(report, "key", "parity"): report.to_json()})}
        )


def line_with_label(label: str, text: str, style: str) -> None:
    """Print `label: text` on stderr, in one line."""
    from rich.text import Text

    console(stderr=True).print(Text.assemble((f"{label}: ", style), plain(text)), soft_wrap=True)


@contextmanager
def progress() -> Iterator[StageProgress]:
    """Show stages of work on stderr: live on a terminal, a line each elsewhere."""
    target = console(stderr=True)
    if target.is_terminal:
        with _live_progress(target) as live:
            stages = StageProgress(live)
            yield stages
            stages.finish()
        return
    stages, ended = StageProgress(None), threading.Event()

    def watch() -> None:
        with suppress(OSError):  # the reader went away, which the next stage notices
            while not ended.wait(WATCH_SECONDS):
                stages.report()

    # A stage that counts nothing for minutes must not look as if it hung.
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield stages
        stages.finish()
    finally:
        ended.set()
        watcher.join()


class StageProgress:
    """Stages one after the other; each ends when the next begins. What a pipeline calls while it works."""

    def __init__(self, live: Progress | None) -> None:
        self._live = live
        self._name = ""
        self._unit = ""
        self._total: int | None = None
        self._done = 0
        self._steps = 0
        self._started = self._reported = time.monotonic()
        self._left = Remaining(None, self._started)

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        """End the stage before and begin another."""
        self.finish()
        self._name, self._total, self._unit, self._done, self._steps = name, total, unit, 0, 0
        self._started = self._reported = time.monotonic()
        self._left = Remaining(total, self._started)
        if self._live is not None:
            self._live.add_task(plain(name), total=total, amount="", note="", left=self._left)

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count work that was done; `note` tells what is being worked on."""
        self._done += amount
        self._steps += 1
        self._left.advance(amount, time.monotonic())
        if self._live is not None:
            for task in self._live.task_ids:
                self._live.update(
                    task, advance=amount, amount=self._amount(), note=plain(note).removeprefix("model.")
                )
        else:
            self.report()

    def report(self) -> None:
        """Print a line about the stage if the last one is `REPORT_SECONDS` old."""
        now, name = time.monotonic(), self._name
        if not name or self._done == self._total or now - self._reported < REPORT_SECONDS:
            return
        self._reported = now
        so_far = f"{duration(now - self._started)} so far"
        left = self._left.seconds(now)
        remaining = [] if left is None else [f"{duration(left)} left"]
        amount = [self._amount(), *remaining] if self._done else [so_far]
        line(f"{name}: {', '.join([*amount, _memory()])}", stderr=True)

    def tell(self, text: str) -> None:
        """Print a line, above what is live."""
        if self._live is None:
            note(text)
        else:
            self._live.console.print(plain(text), soft_wrap=True, markup=False, highlight=False)

    def finish(self) -> None:
        """End the stage, if there is one."""
        if not self._name:
            return
        done = [self._amount()] if self._done else []
        parts = [*done, duration(time.monotonic() - self._started), _memory()]
        text = plain(f"{self._name}: {', '.join(parts)}")
        self._name = ""
        if self._live is None:
            line(text, stderr=True)
            return
        self._live.console.print(text, soft_wrap=True)
        for task in self._live.task_ids:
            self._live.remove_task(task)

    def _amount(self) -> str:
        if self._unit in ("B", "bytes", "tensor bytes"):
            of = "" if self._total is None else f" of {size(self._total)}"
            tensors = f"{self._steps:,} tensors, " if self._unit == "tensor bytes" else ""
            return f"{tensors}{size(self._done)}{of}"
        whole = self._total is None or self._done == self._total
        number = f"{self._done:,}" if whole else f"{self._done:,} of {self._total:,}"
        return f"{number} {self._unit}".rstrip()


def _live_progress(target: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        Task,
        TextColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class MemoryColumn(ProgressColumn):
        """Memory of this process at each refresh."""

        def render(self, task: Task) -> Text:  # noqa: ARG002
            return Text(size(resident_bytes()))

    class RemainingColumn(ProgressColumn):
        """What is left, between two steps as well."""

        def render(self, task: Task) -> Text:
            left = task.fields["left"].seconds(time.monotonic())
            return Text("" if left is None else f"{duration(left)} left", style="cyan")

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        TextColumn("{task.fields[amount]}", markup=False),
        RemainingColumn(),
        MemoryColumn(),
        TextColumn(
            "{task.fields[note]}",
            markup=False,
            style="dim",
            table_column=Column(no_wrap=True, overflow="ellipsis", ratio=1),
        ),
        console=target,
        transient=True,
        expand=True,
    )


def _memory() -> str:
    return f"memory {size(resident_bytes())}"


def resident_bytes() -> int:
    """Memory that this process holds now; where the system does not tell, the most it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
