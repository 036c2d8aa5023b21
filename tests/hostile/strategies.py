"""hypothesis strategies for the documents that helium-edge reads: near the right thing, and off by something."""

from __future__ import annotations

import json
import struct
from typing import Any

from hypothesis import strategies as st

from tests.helpers.checkpoints import tiny_config
from tests.hostile.case import NORM

ODD_NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 2**31, 2**53, 2**63, 2**64, 10**30])
SCALARS = st.none() | st.booleans() | ODD_NUMBERS | st.integers(-5, 300) | st.floats() | st.text(max_size=12)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)

CONFIG_KEYS = (
    *tiny_config(), "rope_parameters", "rope_scaling", "auto_map", "quantization_config", "torch_dtype", "dtype",
    "transformers_version", "unknown",
)  # fmt: skip
ROPE = st.fixed_dictionaries(
    {}, optional={"rope_type": st.sampled_from(["default", "yarn"]), "type": SCALARS, "rope_theta": SCALARS}
)


def configs() -> st.SearchStrategy[dict[str, Any]]:
    """A sound config of which some keys have other values, or none."""
    changes = st.dictionaries(st.sampled_from(CONFIG_KEYS), ANYTHING | ROPE, max_size=3)
    dropped = st.sets(st.sampled_from(CONFIG_KEYS), max_size=2)
    return st.builds(
        lambda new, gone: {k: v for k, v in (tiny_config() | new).items() if k not in gone}, changes, dropped
    )


DTYPES = st.sampled_from(["BF16", "F16", "F32", "F64", "I8", "BOOL", "F8_E4M3", "U64", "X", "", "bf16"])
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I8": 1, "BOOL": 1, "F8_E4M3": 1, "U64": 8}
NAMES = st.sampled_from([NORM, "a", "../x", "", "__metadata__", "\0", "🙂"]) | st.text(max_size=5)


@st.composite
def safetensors_files(draw: st.DrawFn) -> bytes:
    """Tensors laid end to end, now and then with a fault in shape, offsets, type, order, length or text."""
    header: dict[str, Any] = {}
    end = 0
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        dtype, shape = draw(DTYPES), draw(st.lists(st.integers(0, 4), max_size=3))
        size = SIZES.get(dtype, 1)
        for dim in shape:
            size *= dim
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    if header and draw(st.booleans()):
        entry = header[draw(st.sampled_from(sorted(header)))]
        field = draw(st.sampled_from(["dtype", "shape", "data_offsets", "extra"]))
        off = st.lists(ODD_NUMBERS | st.integers(0, 40), max_size=3)
        entry[field] = draw(off | ANYTHING)
    if draw(st.booleans()):
        header["__metadata__"] = draw(
            st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2) | ANYTHING
        )
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    text += b" " * draw(st.sampled_from([0, 0, 1, 8]))
    if draw(st.sampled_from([False] * 5 + [True])):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.binary(max_size=3)) + text[at + draw(st.integers(0, 3)) :]
    length = len(text) + draw(st.sampled_from([0] * 8 + [-1, 1, 8, 1 << 40]))
    data = bytes(max(0, end + draw(st.sampled_from([0] * 8 + [-1, 1, 16]))))
    return struct.pack("<Q", max(0, length) % 2**64) + text + data


def indices(names: list[str], files: list[str]) -> st.SearchStrategy[Any]:
    """A sound index of which some entries are others."""
    places = st.sampled_from([*files, "../x.safetensors", "/x.safetensors", "x", ""]) | ANYTHING
    changes = st.dictionaries(st.sampled_from(names) | NAMES, places, max_size=3)
    sound = dict.fromkeys(names, files[-1])
    return st.builds(lambda new: {"metadata": {}, "weight_map": sound | new}, changes) | ANYTHING


def edits(document: Any) -> st.SearchStrategy[Any]:
    """A document with something else in one place, or without it."""

    def places(node: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        return [place, *(inner for key in keys for inner in places(node[key], (*place, key)))]

    def edit(place: tuple[Any, ...], value: Any, *, drop: bool) -> Any:
        data = json.loads(json.dumps(document))
        node = data
        for key in place[:-1]:
            node = node[key]
        if drop:
            del node[place[-1]]
        else:
            node[place[-1]] = value
        return data

    return st.builds(
        lambda place, value, drop: edit(place, value, drop=drop),
        st.sampled_from(places(document)[1:]), ANYTHING, st.booleans(),
    )  # fmt: skip
