"""A shipped ONNX graph, asked for the logits of several tokens of a call.

Such a graph gathers rows of the last hidden states, by `last_index`, before the head: in any number where its
number of tokens is free. Graphs of manifests before version 1.6 say that it is one. The same Gather takes several
indices: in memory, and nowhere else, the two shapes that say "one" are made free. Nodes, kernels and weights are
those of the shipped file, so what is scored is what is shipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from helium_edge.documents import first_line
from helium_edge.errors import BundleError
from helium_edge.runtime.onnx_runner import OnnxRunner
from helium_edge.runtime.runner import Logits
from helium_edge.signature import LAST_INDEX, LOGITS, SYMBOLIC_ROWS, DecoderSpec

_FOLDER_OPTION = "session.model_external_initializers_file_folder_path"
_KEPT_WIDTH = 16


class OnnxRowsRunner(OnnxRunner):
    """An `OnnxRunner` over a `logits: last` graph that can also return every row of a prefill.

    Args:
        folder: Where the graphs and their weights lie.
        graphs: File name by phase; `any` is used.
        spec: Cache, vocabulary and shapes of the graphs, as shipped.
        threads: Threads within an operator; 0 lets ONNX Runtime choose.

    Raises:
        BundleError: The graph cannot be loaded, or is not built as ours are.
        ResourceError: Not enough memory for the cache.
    """

    _kept_width = _KEPT_WIDTH

    def __init__(self, folder: Path, graphs: Mapping[str, str], spec: DecoderSpec, *, threads: int = 0) -> None:
        freed = with_free_rows(folder / graphs["any"])
        super().__init__(
            folder,
            graphs,
            spec,
            threads=threads,
            models={} if freed is None else {"any": freed},
            session_config={} if freed is None else {_FOLDER_OPTION: str(folder)},
        )

    def prefill_rows(self, tokens: Sequence[int]) -> Logits:
        """Append tokens and return the logits of each; see `RowsRunner.prefill_rows`."""
        self._check(tokens)
        rows = []
        for start in range(0, len(tokens), self._prefill_len):
            chunk = tokens[start : start + self._prefill_len]
            step = self._step("any", len(chunk), len(chunk))
            self._call(step, chunk)
            self._position += len(chunk)
            rows.append(step.logits[0].copy())
        return np.concatenate(rows)


def with_free_rows(path: Path) -> bytes | None:
    """The graph of a file, with any number of entries in `last_index` and as many rows of logits.

    Returns:
        None where that is what the file has.

    Raises:
        BundleError: It cannot be read, or `last_index` does not choose among tokens in exactly one Gather.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf and onnx raise several unrelated types
        raise BundleError(f"{path.name}: not readable as ONNX: {first_line(error)}") from error
    graph = model.graph
    users = [node for node in graph.node if LAST_INDEX in node.input]
    if [node.op_type for node in users] != ["Gather"] or users[0].input[1] != LAST_INDEX:
        found = ", ".join(node.op_type for node in users) or "nothing"
        raise BundleError(
            f"{path.name}: {LAST_INDEX} goes to {found}, not to one Gather",
            hint="export again, with `logits: all` in the recipe",
        )
    (index,) = [value for value in graph.input if value.name == LAST_INDEX]
    (logits,) = [value for value in graph.output if value.name == LOGITS]
    if index.type.tensor_type.shape.dim[0].HasField("dim_param"):
        return None
    index.type.tensor_type.shape.dim[0].dim_param = SYMBOLIC_ROWS
    logits.type.tensor_type.shape.dim[1].dim_param = SYMBOLIC_ROWS
    del graph.value_info[:]  # shapes between, which say 1
    data: bytes = model.SerializeToString()
    return data
