from __future__ import annotations

from collections.abc import Callable

import pytest
from helium_edge.cli.main import run

from tests.unit.cli.commands import clean_environment

Result = tuple[int, str, str]


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR", "TERMINAL_WIDTH", "HELIUM_EDGE_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    assert "COLUMNS" not in clean_environment()


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run a command inside this process: exit code, stdout, stderr."""

    def call(*arguments: str) -> Result:
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
