"""Files that `parity` reads and writes beside what it prints: the baseline before the run, reports after it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from helium_edge.errors import InputError, UsageError

from . import _console

if TYPE_CHECKING:
    from helium_edge.parity import ParityReport
    from helium_edge.parity.document import Document


@dataclass(frozen=True)
class Outputs:
    """What was asked for.

    Attributes:
        html: The page.
        junit: The test results.
        markdown: The table.
        baseline: An earlier document.
        update: Write `baseline` instead of comparing with it.
    """

    html: Path | None = None
    junit: Path | None = None
    markdown: Path | None = None
    baseline: Path | None = None
    update: bool = False

    def check(self) -> Document | None:
        """Refuse early what would fail after a long run; return the baseline to compare with, if there is one.

        Raises:
            UsageError: A file cannot be written, or there is no baseline to update.
            InputError: The baseline cannot be read.
            MissingDependencyError: The page needs the extra `report`.
        """
        from helium_edge.parity.document import read_document
        from helium_edge.report import check_destinations

        if self.update and self.baseline is None:
            raise UsageError("--update-baseline needs --baseline FILE", hint="the file that it writes")
        check_destinations(
            html=self.html, others=(self.junit, self.markdown, self.baseline if self.update else None)
        )
        if self.baseline is None or self.update:
            return None
        if not self.baseline.exists():
            raise InputError(f"{self.baseline}: there is no baseline yet", hint="--update-baseline writes it")
        return read_document(self.baseline)

    def compare(self, report: ParityReport, before: Document | None) -> ParityReport:
        """The report, with its comparison with the baseline.

        Raises:
            InputError: The baseline is one of something else; the reports that were asked for are written first.
        """
        if before is None:
            return report
        from helium_edge.parity.baseline import compare_with_baseline

        document = report.to_json()
        try:
            found = compare_with_baseline(document, before, source=str(self.baseline))
        except InputError:
            self.write(document)
            raise
        return replace(report, baseline=found)

    def write(self, document: Document) -> None:
        """Write what was asked for; a run that fails becomes no baseline."""
        from helium_edge.parity.baseline import write_baseline
        from helium_edge.report import write_reports

        for path in write_reports(document, html=self.html, junit=self.junit, markdown=self.markdown):
            _console.note(f"written: {path}")
        if self.baseline is None or not self.update:
            return
        if document["passed"]:
            write_baseline(document, self.baseline)
            _console.note(f"written: {self.baseline}")
        else:
            _console.note(f"not written: {self.baseline}, because the run failed")
