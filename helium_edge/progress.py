"""What long work reports while it runs."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives stages of work, one after the other; a stage ends when the next begins."""

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        """Begin a stage.

        Args:
            name: What is done, for people.
            total: How much there is to do, in `unit`; None where nobody knows.
            unit: "tokens", "layers"; "B" and "tensor bytes" are shown as sizes.
        """
        ...

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Count `amount` units of the stage as done; `note` names what was worked on."""
        ...

    def tell(self, line: str) -> None:
        """Say at once what people should know, as `warning: ...`; it belongs to no stage."""
        ...


class _Silent:
    """Ignores every report."""

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        """Ignore it."""

    def advance(self, amount: int = 1, note: str = "") -> None:
        """Ignore it."""

    def tell(self, line: str) -> None:
        """Ignore it."""


SILENT: Progress = _Silent()
"""Reports nothing."""
