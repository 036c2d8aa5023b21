"""The JSON Schema of the parity document, generated from its models.

`python -m helium_edge.parity.schema` rewrites `parity.schema.json`.
"""

from __future__ import annotations

from pathlib import Path

from helium_edge.parity.document import SCHEMA, SCHEMA_FILE, SCHEMA_VERSION, ParityDocument
from helium_edge.schemas import generate_schema, schema_text


def parity_schema() -> str:
    """The text that `parity.schema.json` must have."""
    title = "helium-edge parity report"
    return schema_text(generate_schema(ParityDocument, name=SCHEMA, version=SCHEMA_VERSION, title=title))


if __name__ == "__main__":
    Path(__file__).with_name(SCHEMA_FILE).write_text(parity_schema(), encoding="utf-8")
