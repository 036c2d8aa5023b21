"""A second oracle beside the reference: how far the two are from each other, and the export from the second."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from helium_edge.parity.oracle_optimum import OracleAgreement
from helium_edge.parity.statistics import Aggregate
from helium_edge.schemas import plain


@dataclass(frozen=True)
class OracleReport:
    """What the second oracle says.

    Attributes:
        name: Which it is.
        version: Of the package that made it.
        agreement: How far it is from the reference; a difference to it proves nothing where it differs itself.
        candidate: The export against it.
    """

    name: str
    version: str
    agreement: OracleAgreement
    candidate: Aggregate

    def to_json(self) -> dict[str, Any]:
        """As plain JSON data."""
        return {
            "name": self.name,
            "version": self.version,
            **self.agreement.to_json(),
            "candidate": plain(asdict(self.candidate)),
        }
