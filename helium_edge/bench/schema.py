"""The JSON Schema of the benchmark's document, generated from its models.

`python -m helium_edge.bench.schema` rewrites `bench.schema.json`.
"""

from __future__ import annotations

from pathlib import Path

from helium_edge.bench.document import SCHEMA, SCHEMA_FILE, SCHEMA_VERSION, BenchDocument
from helium_edge.schemas import generate_schema, schema_text


def bench_schema() -> str:
    """The text that `bench.schema.json` must have."""
    return schema_text(
        generate_schema(BenchDocument, name=SCHEMA, version=SCHEMA_VERSION, title="helium-edge benchmark")
    )


if __name__ == "__main__":
    Path(__file__).with_name(SCHEMA_FILE).write_text(bench_schema(), encoding="utf-8")
