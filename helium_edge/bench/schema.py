"""The JSON Schema of the benchmark's document, made from its models; `helium-edge schema bench` prints it."""

from __future__ import annotations

from helium_edge.bench.document import SCHEMA, SCHEMA_VERSION, BenchDocument
from helium_edge.schemas import generate_schema, schema_text


def document_schema() -> str:
    """Its text."""
    return schema_text(
        generate_schema(BenchDocument, name=SCHEMA, version=SCHEMA_VERSION, title="helium-edge benchmark")
    )
