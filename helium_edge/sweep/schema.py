"""The JSON Schema of a sweep, made from its models; `helium-edge schema sweep` prints it."""

from __future__ import annotations

from helium_edge.schemas import generate_schema, schema_text
from helium_edge.sweep.document import SCHEMA, SCHEMA_VERSION, SweepDocument


def document_schema() -> str:
    """Its text."""
    return schema_text(
        generate_schema(SweepDocument, name=SCHEMA, version=SCHEMA_VERSION, title="helium-edge sweep")
    )
