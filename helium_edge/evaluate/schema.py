"""The JSON Schema of an evaluation, made from its models; `helium-edge schema evaluation` prints it."""

from __future__ import annotations

from helium_edge.evaluate.document import SCHEMA, SCHEMA_VERSION, EvaluationDocument
from helium_edge.schemas import generate_schema, schema_text


def document_schema() -> str:
    """Its text."""
    title = "helium-edge evaluation"
    return schema_text(generate_schema(EvaluationDocument, name=SCHEMA, version=SCHEMA_VERSION, title=title))
