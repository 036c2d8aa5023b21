"""Parity documents as people and CI systems read them: an HTML page, JUnit XML, Markdown."""

from helium_edge.report.explain import Finding, Verdict, explain
from helium_edge.report.files import check_destinations, write_reports
from helium_edge.report.html import render_html
from helium_edge.report.junit import render_junit
from helium_edge.report.markdown import render_markdown

__all__ = [
    "Finding",
    "Verdict",
    "check_destinations",
    "explain",
    "render_html",
    "render_junit",
    "render_markdown",
    "write_reports",
]
