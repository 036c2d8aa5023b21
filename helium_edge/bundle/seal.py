"""The checksum that a manifest carries of itself, so that no byte of a bundle can change unseen.

It is the sha256 of the file as it would be with sixty-four zeros in the place of the checksum. It guards against
damage, not against an author of bad will, who computes a new one.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

SEAL = "manifest_sha256"
SEALED_SINCE = (1, 1)
"""The schema version from which on a manifest must have it."""

# Two blanks and no more: the key of this name in the outermost object. No string of JSON holds a line break.
_PLACE = re.compile(rb'\n  "manifest_sha256": "([0-9a-f]{64})"')
_ZEROS = "0" * 64


def sealed_json(document: Mapping[str, Any]) -> str:
    """The one spelling of a manifest: sorted keys, two spaces, a final newline, and its checksum."""
    data = {**document, SEAL: _ZEROS}
    text = json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    digest = hashlib.sha256(text.encode("utf-8")).hexdigest()
    return text.replace(f'\n  "{SEAL}": "{_ZEROS}"', f'\n  "{SEAL}": "{digest}"', 1)


def seal_problem(data: bytes, version: str) -> str:
    """What is wrong with the checksum in a manifest of a schema version; empty when it is right."""
    found = _PLACE.findall(data)
    if not found and tuple(int(part) for part in version.split(".")) < SEALED_SINCE and SEAL.encode() not in data:
        return ""
    if len(found) != 1:
        return f"has no {SEAL}, its own checksum"
    zeroed = _PLACE.sub(f'\n  "{SEAL}": "{_ZEROS}"'.encode(), data)
    if hashlib.sha256(zeroed).hexdigest() != found[0].decode():
        return f"was changed: its sha256 is not the {SEAL} in it"
    return ""
