"""The JSON Schema of the manifest, made from its models; `helium-edge schema manifest` prints it."""

from __future__ import annotations

from helium_edge.bundle.manifest import SCHEMA_NAME, SCHEMA_VERSION, Manifest
from helium_edge.bundle.seal import SEAL
from helium_edge.schemas import generate_schema, schema_text


def document_schema() -> str:
    """Its text.

    Unknown fields are allowed everywhere: a later minor version may add some.
    """
    schema = generate_schema(Manifest, name=SCHEMA_NAME, version=SCHEMA_VERSION, title="helium-edge.json")
    # Not a field of the model: it is made of all others when they are written.
    schema["properties"][SEAL] = {
        "description": "sha256 of this file with sixty-four zeros in the place of these digits.",
        "pattern": "^[0-9a-f]{64}$",
        "type": "string",
    }
    # The version is checked apart, with a message of its own; a file without both fields is no manifest.
    schema["required"] = sorted({*schema["required"], "schema", "schema_version", "files"})
    return schema_text(schema)
