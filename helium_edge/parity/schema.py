"""The JSON Schema of the parity document, made from its models; `helium-edge schema parity` prints it."""

from __future__ import annotations

from helium_edge.parity.document import SCHEMA, SCHEMA_VERSION, ParityDocument
from helium_edge.schemas import generate_schema, schema_text


def document_schema() -> str:
    """Its text."""
    title = "helium-edge parity report"
    return schema_text(generate_schema(ParityDocument, name=SCHEMA, version=SCHEMA_VERSION, title=title))
