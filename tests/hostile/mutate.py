"""Random damage to files: to their bytes, and to the structure of those that are JSON."""

from __future__ import annotations

import copy
import json
import random
import struct
from pathlib import Path
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, 10**40, 0.5, -0.0, float("nan"), float("inf"), 1e308,
    "", "a", "../x", "/etc/passwd", "\0", "🙂", "\ud800", "x" * 5000, "24", [], {}, [[]], {"a": {"b": []}},
    [0] * 50, [None], {"": 0},
)  # fmt: skip


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """A few flips, cuts, insertions or repetitions."""
    result = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        at = draw.randrange(len(result) + 1)
        kind = draw.randrange(6)
        if kind == 0 and at < len(result):
            result[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del result[at:]
        elif kind == 2:
            del result[at : at + draw.choice((1, 8, 200))]
        elif kind == 3:
            result[at:at] = draw.randbytes(draw.choice((1, 8, 200)))
        elif kind == 4:
            result[at:at] = result[at : at + draw.choice((8, 500))]
        else:
            result[at : at + 8] = draw.choice((b"\0" * 8, b"\xff" * 8, struct.pack("<Q", 1 << 40)))
    return bytes(result)


def mutate_value(root: Any, draw: random.Random) -> Any:
    """JSON data with a few values replaced, moved, removed or multiplied."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        places = _places(root)
        if not places:
            return _odd(draw)
        node, key = draw.choice(places)
        kind = draw.randrange(5)
        if kind < 3:
            node[key] = _odd(draw)
        elif kind == 3:
            other, other_key = draw.choice(places)
            node[key] = json.loads(json.dumps(other[other_key]))
        elif isinstance(node, dict):
            node[draw.choice((f"{key}x", "", "__class__"))] = node.pop(key)
        else:
            node[key : key + 1] = [node[key]] * draw.choice((0, 2, 50))
    return root


def _odd(draw: random.Random) -> Any:
    """A copy: a value that is damaged in its turn must not come back at the next seed, nor hold itself."""
    return copy.deepcopy(draw.choice(ODD))


def mutate_json(data: bytes, draw: random.Random) -> bytes:
    """A JSON file with damaged structure, or damaged bytes."""
    if draw.random() < 0.3:
        return mutate_bytes(data, draw)
    text = json.dumps(mutate_value(json.loads(data), draw))
    return text.encode("utf-8", "surrogatepass")


def mutate_safetensors(data: bytes, draw: random.Random) -> bytes:
    """A safetensors file with a damaged header of the right length, or damaged bytes."""
    if draw.random() < 0.4:
        return mutate_bytes(data, draw)
    end = 8 + int.from_bytes(data[:8], "little")
    header = mutate_json(data[8:end], draw)
    return struct.pack("<Q", len(header)) + header + data[end:]


def mutate_file(path: Path, draw: random.Random) -> None:
    """Damage a file in the way that fits it."""
    data = path.read_bytes()
    change = {".json": mutate_json, ".safetensors": mutate_safetensors}.get(path.suffix, mutate_bytes)
    path.write_bytes(change(data, draw))


def _places(root: Any) -> list[tuple[Any, Any]]:
    """Containers with a key or index each."""
    found: list[tuple[Any, Any]] = []
    pending = [root]
    while pending and len(found) < 5000:
        node = pending.pop()
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in keys:
            found.append((node, key))
            pending.append(node[key])
    return found
