"""Names of results by everything that decides about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

VERSION = 1
"""Raised whenever the same key would mean other answers: prompts, encoding, scoring."""


def key_of(about: Mapping[str, Any]) -> str:
    """The key of what decides about answers, plain JSON data."""
    text = json.dumps({"version": VERSION, **about}, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:40]
