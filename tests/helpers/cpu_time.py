"""Processor seconds of a run, children of the tests included: what docs/testing.md has of each tier."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Generator
from typing import Any

import pytest

_PROPERTY = "cpu_seconds"


def _used() -> float:
    return sum(os.times()[:4])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fixtures count for the test that needs them first."""
    start = _used()
    item.user_properties.append((_PROPERTY, start))
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The last phase of a test tells what all of them took."""
    report = yield
    held = dict(item.user_properties)
    report.user_properties = [pair for pair in report.user_properties if pair[0] != _PROPERTY]
    if report.when == "teardown" and _PROPERTY in held:
        report.user_properties.append((_PROPERTY, _used() - held[_PROPERTY]))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the sum, and the files that took most."""
    files: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, seconds in getattr(report, "user_properties", ()):
                if name == _PROPERTY and getattr(report, "when", "") == "teardown":
                    files[report.nodeid.split("::")[0]] += seconds
    if files:
        terminalreporter.write_sep("-", f"{sum(files.values()):.0f} processor seconds")
        for name, seconds in files.most_common(10):
            terminalreporter.write_line(f"{seconds:7.1f} s  {name}")
