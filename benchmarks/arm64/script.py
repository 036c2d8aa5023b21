"""One conversation as calls of graphs: what both processors are to run, and the file that the C++ runners read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from helium_edge.bundle import GraphEntry, Manifest
from helium_edge.errors import UsageError
from helium_edge.runtime.chunks import DECODE, next_width

MIN_TOKENS = 10
"""Enough for two calls of prefill, the second with an unfinished chunk of two tokens, and some of decode."""


@dataclass(frozen=True)
class Call:
    """One call: the index of its graph among those of the manifest, and its tokens."""

    graph: int
    phase: str
    tokens: tuple[int, ...]


def plan_calls(manifest: Manifest, ids: Sequence[int]) -> list[Call]:
    """Split a conversation: a third in a first chunk, a fifth in a second one, the rest token by token.

    The graphs are those that the runners of `helium_edge.runtime` choose: the graph for any number of tokens where
    there is one, otherwise the prefill of `next_width` and the `decode` with the shortest cache that fits.

    Raises:
        UsageError: Fewer tokens than `MIN_TOKENS`, or more than the cache holds.
    """
    if not MIN_TOKENS <= len(ids) <= manifest.cache_len:
        raise UsageError(
            f"{len(ids)} tokens cannot be compared; allowed: {MIN_TOKENS} to {manifest.cache_len}, the cache_len"
        )
    ends = [0]
    for length in (len(ids) // 3, len(ids) // 5):
        ends.append(ends[-1] + min(length, manifest.prefill_len))
    calls: list[Call] = []
    for start, end in pairwise(ends):
        calls += _chunk_calls(manifest, ids[:end], start)
    return [*calls, *(_decode_call(manifest, ids, at) for at in range(ends[-1], len(ids)))]


def conversation_calls(manifest: Manifest, prompt: Sequence[int], answer: Sequence[int]) -> list[Call]:
    """A prompt in chunks of at most `prefill_len`, then an answer token by token, as a host runs them."""
    calls: list[Call] = []
    for start in range(0, len(prompt), manifest.prefill_len):
        calls += _chunk_calls(manifest, prompt[: start + manifest.prefill_len], start)
    ids = [*prompt, *answer]
    return [*calls, *(_decode_call(manifest, ids, at) for at in range(len(prompt), len(ids)))]


def _chunk_calls(manifest: Manifest, ids: Sequence[int], start: int) -> Iterator[Call]:
    """The calls that append the tokens from `start` on."""
    graphs = [
        (graph.tokens, graph.cache_len or 0, index)
        for index, graph in enumerate(manifest.graphs)
        if graph.phase in ("prefill", "any")
    ]
    free = [index for tokens, _, index in graphs if tokens is None]
    if free:
        yield Call(free[0], "prefill", tuple(ids[start:]))
        return
    widths = manifest.prefill_widths()
    while start < len(ids):
        width = next_width(widths, len(ids) - start, manifest.cache_len - start)
        if width == DECODE:
            yield _decode_call(manifest, ids, start)
        else:
            _, graph = min((slots, index) for tokens, slots, index in graphs if tokens == width <= slots - start)
            yield Call(graph, "prefill", tuple(ids[start : start + width]))
        start += width


def _decode_call(manifest: Manifest, ids: Sequence[int], position: int) -> Call:
    return Call(_decode_graph(manifest, position), "decode", (ids[position],))


def write_script(manifest: Manifest, calls: Sequence[Call]) -> str:
    """The text of the script; its format is described in `host.h`."""
    spec = manifest.decoder_spec()
    cache = spec.cache
    lengths = {entry.dtype for graph in manifest.graphs for entry in graph.inputs if entry.role == "past_length"}
    sizes = (cache.layers, cache.num_key_value_heads, cache.cache_len, cache.head_dim)
    index_bits = 64 if lengths == {"int64"} else 32
    facts = (spec.vocab_size, spec.logits, index_bits, int(cache.batched), cache.dtype, *sizes)
    lines = [
        "helium-edge-script 2",
        " ".join(str(fact) for fact in facts),
        str(len(manifest.graphs)),
        *(line for graph in manifest.graphs for line in _graph_lines(graph)),
        str(len(calls)),
        *(" ".join(str(value) for value in (call.graph, len(call.tokens), *call.tokens)) for call in calls),
    ]
    return "\n".join(lines) + "\n"


def _graph_lines(graph: GraphEntry) -> Iterable[str]:
    yield f"{_quoted(graph.file)} {_quoted(graph.method or '')} {graph.tokens or 0} {graph.cache_len or 0}"
    for side in (graph.inputs, graph.outputs):
        yield str(len(side))
        yield from (f"{_quoted(entry.name)} {_quoted(entry.role)}" for entry in side)


def _quoted(text: str) -> str:
    """As std::quoted reads it."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _decode_graph(manifest: Manifest, position: int) -> int:
    fitting = [
        (graph.cache_len or 0, index)
        for index, graph in enumerate(manifest.graphs)
        if graph.phase in ("decode", "any") and (graph.cache_len or 0) > position
    ]
    # Where one graph serves both phases, it is the one in memory.
    both = [entry for entry in fitting if manifest.graphs[entry[1]].phase == "any"]
    return min(both or fitting)[1]
