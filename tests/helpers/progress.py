"""A progress that keeps what it receives."""

from __future__ import annotations


class Recorder:
    """Stages, and the amounts and notes of all advances."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int | None, str]] = []
        self.amounts: list[int] = []
        self.notes: list[str] = []
        self.told: list[str] = []

    def stage(self, name: str, total: int | None = None, unit: str = "") -> None:
        self.stages.append((name, total, unit))

    def advance(self, amount: int = 1, note: str = "") -> None:
        self.amounts.append(amount)
        self.notes.append(note)

    def tell(self, line: str) -> None:
        self.told.append(line)
