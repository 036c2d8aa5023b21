"""A folder as one run of bytes, as ExecuTorch's CoreML backend carries packages: files, then a table of them.

The files lie one after another. Behind them stands a JSON text, its bytes in reverse so that a reader starts at
the end: `nodes`, children before their folder and the outermost folder last. A file says where it lies; a folder
says which nodes its children are.

Source: pytorch/executorch backends/apple/coreml/runtime/inmemoryfs (inmemory_filesystem.cpp, json_util.cpp).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from helium_edge.errors import BundleError

_FILE, _FOLDER = 0, 1
_LONGEST_TABLE = 1 << 20
"""Bytes at the end among which the table is looked for; ours takes less than one thousandth."""


def folder_table(sizes: Mapping[str, int], root: str) -> bytes:
    """What stands behind the contents of a folder.

    Args:
        sizes: Bytes of each file by its path, in the order in which the files lie.
        root: Name of the folder.
    """
    tree: dict[str, Any] = {}
    end = 0
    for path, size in sizes.items():
        *folders, name = path.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = (end, size)
        end += size
    nodes: list[dict[str, Any]] = []
    _add_node(nodes, root, tree)
    return json.dumps({"nodes": nodes}, separators=(",", ":")).encode("utf-8")[::-1]


def _add_node(nodes: list[dict[str, Any]], name: str, content: Any) -> int:
    """Append a file or a folder with all that is in it; gives its index."""
    if isinstance(content, tuple):
        offset, size = content
        children, kind = {}, _FILE
    else:
        children = {child: _add_node(nodes, child, inner) for child, inner in content.items()}
        offset, size, kind = 0, 0, _FOLDER
    region = {"offset": offset, "size": size}
    nodes.append({"name": name, "kind": kind, "dataRegion": region, "children": children})
    return len(nodes) - 1


class FlattenedFolder:
    """A reader of such bytes; files are views of them.

    Args:
        data: All of it.

    Raises:
        BundleError: There is no table at the end.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        text = bytes(data[-_LONGEST_TABLE:])[::-1].decode("utf-8", errors="replace").lstrip("\0")
        try:
            self._nodes = json.JSONDecoder().raw_decode(text)[0]["nodes"]
            self._root = self._nodes[-1]
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise BundleError("a CoreML package without a table of its files") from error

    def file(self, path: str) -> memoryview:
        """The bytes of a file.

        Args:
            path: From the outermost folder on, whose own name does not matter.

        Raises:
            BundleError: There is no such file, or it ends after the data.
        """
        node = self._root
        try:
            for name in path.split("/"):
                node = self._nodes[node["children"][name]]
            start, size = (int(node["dataRegion"][key]) for key in ("offset", "size"))
        except (LookupError, TypeError, ValueError) as error:
            raise BundleError(f"the CoreML package has no file {path}") from error
        if min(start, size) < 0 or start + size > len(self._data):
            raise BundleError(f"the CoreML package ends before its file {path} does")
        return self._data[start : start + size]
