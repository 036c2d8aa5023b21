"""How a bundle is shown by `inspect`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from . import _console
from ._format import count, figure, layer_pattern, shape, size, with_layers

if TYPE_CHECKING:
    from helium_edge.bundle import Bundle, GraphEntry, Manifest
    from helium_edge.targets.summary import MethodSummary


def show_bundle(manifest: Manifest) -> None:
    """Show what the manifest of a bundle says."""
    _show_model(manifest)
    _show_quantization(manifest)
    _show_memory(manifest)
    for graph in manifest.graphs:
        _show_graph(graph)
    _console.heading("Files")
    _console.table(["file", "size"], [(file.path, size(file.bytes)) for file in manifest.files], right=["size"])
    _show_parity(manifest)


def program_methods(bundle: Bundle) -> list[MethodSummary] | None:
    """What the methods of a program are made of; None for other files, and where an extra is missing."""
    from helium_edge.errors import MissingDependencyError
    from helium_edge.targets.loading import target_of

    try:
        return target_of(bundle).summarize(bundle) or None
    except MissingDependencyError as error:
        _console.note(f"note: the methods inside the .pte are not shown: {error}")
        return None


def show_programs(methods: Iterable[MethodSummary]) -> None:
    """Show what the methods of a `.pte` are made of."""
    for method in methods:
        plural = "s" * (method.delegates != 1)
        _console.heading(f"Method {method.name}: {method.delegates} delegate{plural} of {method.backend}")
        _console.table(["inside", "count"], method.operations.items(), right=["count"])
        _console.line(f"outside: {', '.join(method.outside) or 'nothing'}")


def _show_model(manifest: Manifest) -> None:
    model, source = manifest.model, manifest.source
    revision = f" at {source.revision}" if source.revision else ""
    _console.title(f"Bundle {manifest.name}")
    _console.fields(
        [
            ("source", f"{source.checkpoint}{revision}, license {source.license or 'not declared'}"),
            ("made by", f"{manifest.created_by.tool} {manifest.created_by.version}"),
            ("runs on", f"{manifest.runtime}, target {manifest.target.name}"),
            ("model", f"{model.architecture}, {count(model.parameters)} parameters"),
            ("layers", f"{model.layers}, hidden {model.hidden_size}, MLP {model.intermediate_size}"),
            ("attention", f"{model.heads} heads of {model.head_dim}, {model.kv_heads} key-value heads"),
            *_task_fields(manifest),
            (
                "tokens",
                f"vocabulary {model.vocab_size:,}, end {', '.join(map(str, manifest.tokens.eos)) or 'none'}",
            ),
        ]
    )


def _task_fields(manifest: Manifest) -> list[tuple[str, str]]:
    if manifest.task.has_cache:
        return []
    labels = f": {', '.join(manifest.labels)}" if manifest.labels else ""
    return [("returns", f"{manifest.task.words}{labels}"), ("text", f"at most {manifest.prefill_len} tokens")]


def _show_quantization(manifest: Manifest) -> None:
    found = manifest.quantization
    _console.heading(f"Weights: recipe {found.recipe_name}")
    rows = [
        (scheme, entry.weights, count(entry.parameters), size(entry.bytes))
        for scheme, entry in found.summary.items()
    ]
    _console.table(["scheme", "weights", "parameters", "size"], rows, right=["weights", "parameters", "size"])
    if found.calibration is not None:
        text = found.calibration
        _console.line(
            f"calibrated: {text.tokens:,} tokens ({text.text}; sha256 {text.text_sha256[:12]}), "
            f"{text.rounds} round{'s' * (text.rounds != 1)}, damping {text.damping:g}, "
            f"{'with' if text.folds else 'without'} folds"
        )
    if found.worst_weight is not None:
        _console.line(
            f"relative error: {figure(found.mean_relative_error)} on average, "
            f"{figure(found.worst_relative_error)} at most"
        )
        _console.line(f"worst weight: {found.worst_weight}")


def _show_memory(manifest: Manifest) -> None:
    cache, memory = manifest.cache, manifest.memory
    weights = ("weights", f"{size(memory.weights_bytes)} on disk, {size(memory.packed_bytes)} in memory")
    if cache is None:
        running = f"weights, activations {size(memory.activations_bytes)}"
        _console.heading("Memory")
        _console.fields([weights, ("running", f"{size(memory.total_bytes)} in all: {running}")])
        return
    how = {"in_place": "updated in place", "append": "the host copies new rows"}[cache.update]
    running = f"weights, cache {size(memory.cache_bytes)}, activations {size(memory.activations_bytes)}"
    _console.heading("Cache and memory")
    _console.fields(
        [
            ("cache", f"{manifest.cache_len:,} tokens, {cache.dtype}, {how}"),
            ("buffers", f"{2 * cache.layers} of {shape(cache.shape)}, {size(cache.bytes_per_token)} a token"),
            ("prefill", f"chunks of {_chunks(manifest)} tokens, logits: {manifest.logits}"),
            weights,
            ("running", f"{size(memory.total_bytes)} in all: {running}"),
            ("chat", _chat(manifest)),
        ]
    )


def _chat(manifest: Manifest) -> str:
    chat = manifest.chat
    if chat is None:
        return "no template"
    if not chat.declarative:
        return f"by Jinja only: {chat.reason}"
    return (
        f"template as data, ends at {', '.join(map(str, chat.stop))}{'' if chat.system else '; no system message'}"
    )


def _chunks(manifest: Manifest) -> str:
    """As in `8, 32 or 128`."""
    *narrower, widest = manifest.prefill_widths()
    return f"{', '.join(map(str, narrower))} or {widest}" if narrower else str(widest)


def _show_graph(graph: GraphEntry) -> None:
    tokens = "any number of tokens" if graph.tokens is None else f"{graph.tokens} token{'s' * (graph.tokens != 1)}"
    method = f", method {graph.method}" if graph.method else ""
    answered = ", logits of any of them" if graph.free_rows else ""
    _console.heading(f"Graph {graph.file}{method}: {graph.phase}, {tokens} a call{answered}")
    rows = [("in", *row) for row in _tensor_rows(graph.inputs)] + [
        ("out", *row) for row in _tensor_rows(graph.outputs)
    ]
    _console.table(["", "name", "dtype", "shape"], rows)


def _tensor_rows(tensors: Iterable[object]) -> list[tuple[str, str, str]]:
    """Name, dtype and shape; the same tensor of several layers in one row."""
    groups: dict[tuple[str, str, str], list[int | None]] = {}
    for tensor in tensors:
        pattern, layer = layer_pattern(tensor.name)  # type: ignore[attr-defined]
        key = (pattern, tensor.dtype, shape(tensor.shape))  # type: ignore[attr-defined]
        groups.setdefault(key, []).append(layer)
    return [(with_layers(pattern, layers), dtype, dims) for (pattern, dtype, dims), layers in groups.items()]


def _show_parity(manifest: Manifest) -> None:
    _console.heading("Parity with the original")
    if manifest.parity is None:
        _console.line("not compared; `helium-edge parity` does")
        return
    shown = []
    for name, value in manifest.parity.items():
        if value is None:
            continue
        if isinstance(value, list):
            value = ", ".join(map(str, value))
        shown.append((name.replace("_", " "), figure(value, 4) if isinstance(value, float) else value))
    _console.fields(shown)
