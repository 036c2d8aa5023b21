"""What a sweep consists of: cells, each a function of its key, whose result appears under that key by one rename.

The store is the only state. An engine that dies, and one that starts again, find in it what is done; two that
compute the same cell write the same.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from helium_edge import durable
from helium_edge.documents import DocumentError, parse_json
from helium_edge.evaluate.keys import key_of

Kind = Literal["export", "artifact", "original", "parity", "speed"]

WORKER_BYTES = 600 << 20
"""Interpreter, runtimes and buffers of a worker, besides weights."""


@dataclass(frozen=True)
class Cell:
    """One piece of work.

    Attributes:
        kind: `export` a recipe; ask the `artifact` or the `original` a task; `parity` and `speed` of a bundle.
        name: For people.
        spec: Everything that decides about its result, plain JSON data.
        place: Where things lie, which decides about nothing: checkpoint, data.
        needs: Keys of cells that come before.
        memory: Bytes that it takes, roughly.
        alone: Nothing else may run beside it.
    """

    kind: Kind
    name: str
    spec: Mapping[str, Any]
    place: Mapping[str, Any]
    needs: tuple[str, ...] = ()
    memory: int = WORKER_BYTES
    alone: bool = False

    @property
    def key(self) -> str:
        """Of the result."""
        return key_of({"kind": self.kind, **self.spec})

    def to_json(self) -> dict[str, Any]:
        """As plain data, for another process or machine."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Cell:
        """The cell of `to_json`."""
        return cls(**{**data, "needs": tuple(data["needs"])})


class CellStore:
    """Results of cells, bundles and answers in one folder, which machines may share.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def result(self, cell: Cell) -> dict[str, Any] | None:
        """What a cell came to; None where it is not done."""
        try:
            found = parse_json(self._path(cell).read_bytes())
        except (OSError, DocumentError):
            return None
        return found if isinstance(found, dict) else None

    def publish(self, cell: Cell, result: Mapping[str, Any]) -> None:
        """Write what a cell came to, in one step."""
        path = self._path(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        with durable.replacing(path) as beside:
            durable.write_file(beside, json.dumps(result, sort_keys=True).encode("utf-8"))

    def bundle(self, cell: Cell) -> Path:
        """Where the bundle of a cell's recipe lies, or will."""
        spec = {name: cell.spec[name] for name in ("version", "checkpoint", "recipe", "isa")}
        recipe = json.loads(str(cell.spec["recipe"]))
        return self.folder / "bundles" / f"{recipe['name']}-{key_of({'kind': 'export', **spec})[:12]}"

    def tell(self, cell: Cell, event: str) -> None:
        """Add a line to the log: what was started, and what was published, by which process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"event": event, "cell": cell.key, "name": cell.name, "process": os.getpid()})
        with (self.folder / "sweep.log").open("a", encoding="utf-8") as log:
            log.write(line + "\n")

    def log(self) -> Sequence[Mapping[str, Any]]:
        """All lines of the log that are whole."""
        try:
            lines = (self.folder / "sweep.log").read_bytes().splitlines()
        except OSError:
            return []
        whole = [line for line in lines if line.startswith(b"{") and line.endswith(b"}")]  # a kill may tear one
        return [parse_json(line) for line in whole]

    def _path(self, cell: Cell) -> Path:
        return self.folder / "cells" / f"{cell.kind}-{cell.key}.json"
