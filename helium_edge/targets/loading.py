"""From an opened bundle to something that runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from helium_edge.bundle import Bundle, GraphEntry
from helium_edge.errors import UPGRADE, BundleError
from helium_edge.pte.requirements import read_requirements
from helium_edge.registry import TARGETS
from helium_edge.runtime.runner import CachedRunner
from helium_edge.runtime.text_runner import TextRunner
from helium_edge.runtime.versions import check_runtime
from helium_edge.signature import CLASSIFY
from helium_edge.targets import load_target
from helium_edge.targets.base import BuiltGraph, RowsTarget, Target


def with_requirements(folder: Path, graphs: Sequence[BuiltGraph]) -> list[BuiltGraph]:
    """The methods of a program that has been written, with what it says they need."""
    found = {file: read_requirements(folder / file) for file in {graph.file for graph in graphs}}
    return [
        dataclasses.replace(graph, **vars(needed))
        for graph in graphs
        for needed in [found[graph.file][str(graph.method)]]
    ]


def open_runner(bundle: Bundle, *, threads: int = 0, static: bool = False) -> CachedRunner:
    """Load the graphs of a language model.

    Args:
        bundle: The bundle; it may be one that is still being written.
        threads: Threads within an operator; 0 lets the runtime choose.
        static: Use the graphs of static shape even where one graph serves both phases.

    Raises:
        BundleError: No target of this version serves the bundle's runtime, or a graph is missing or damaged.
        ResourceError: Not enough memory for the cache.
        MissingToolError: The installed runtime is older than the graphs need.
    """
    _check_runtime(bundle)
    return target_of(bundle).open_decoder(bundle, threads=threads, static=static)


def open_scoring_runner(bundle: Bundle, *, threads: int = 0) -> CachedRunner:
    """Load the graphs of a language model to score given tokens, of which every row of logits is wanted.

    Where the target can ask the shipped graph for several rows, the runner is a `RowsRunner`; see `open_runner`
    for arguments and errors.
    """
    _check_runtime(bundle)
    target = target_of(bundle)
    if isinstance(target, RowsTarget):
        return target.open_rows(bundle, threads=threads)
    return target.open_decoder(bundle, threads=threads, static=False)


def _check_runtime(bundle: Bundle) -> None:
    manifest = bundle.manifest
    int8_cache = manifest.cache is not None and manifest.cache.dtype == "int8"
    check_runtime(manifest.runtime, manifest.runtime_min_version, int8_cache=int8_cache)


def open_text_runner(bundle: Bundle, *, threads: int = 0) -> TextRunner:
    """Load the one graph of a classifier or an encoder.

    Args:
        bundle: The bundle; it may be one that is still being written.
        threads: Threads within an operator; 0 lets the runtime choose.

    Raises:
        BundleError: It holds a language model, no target of this version serves it, or the graph is damaged.
    """
    manifest = bundle.manifest
    signature = manifest.text_signature()
    graph = next((graph for graph in manifest.graphs if graph.phase == CLASSIFY), None)
    if graph is None:
        raise BundleError(f"{bundle.folder.name}: has no graph of phase {CLASSIFY}")
    if (graph.input_specs(), graph.output_specs()) != (signature.inputs(), signature.outputs()):
        raise BundleError(f"{bundle.folder.name}: inputs and outputs of {graph.file} do not fit its task")
    return target_of(bundle).open_text_runner(bundle, graph, threads=threads)


def target_of(bundle: Bundle) -> Target:
    """The target that a bundle was made for.

    Raises:
        BundleError: This version has none of that name and runtime.
    """
    manifest = bundle.manifest
    name = manifest.target.name
    found = load_target(name) if name in TARGETS else None
    if found is None or found.runtime != manifest.runtime:
        known = ", ".join(f"{each} on {load_target(each).runtime}" for each in TARGETS)
        raise BundleError(
            f"{bundle.folder.name}: made for {name}, runs on {manifest.runtime}, which this "
            f"version does not know; known: {known}",
            hint=UPGRADE,
        )
    return found


@dataclasses.dataclass(frozen=True)
class ProgramMethods:
    """The program of an ExecuTorch bundle and its methods.

    Attributes:
        path: The file.
        prefill: Prefill methods with the full cache, by tokens.
        shorter: The others, by tokens and cache length.
        decode: Decode methods, by cache length.
    """

    path: Path
    prefill: dict[int, str]
    shorter: dict[tuple[int, int], str]
    decode: dict[int, str]


def program_methods(bundle: Bundle) -> ProgramMethods:
    """The program of an ExecuTorch bundle.

    Raises:
        BundleError: It is not one file with a prefill and a decode method.
    """
    prefill: dict[int, str] = {}
    shorter: dict[tuple[int, int], str] = {}
    decode: dict[int, str] = {}
    files = set()
    for graph in bundle.manifest.graphs:
        files.add(graph.file)
        if graph.method is None:
            continue
        if graph.phase == "prefill" and graph.tokens is not None:
            if graph.cache_len is None or graph.cache_len == bundle.manifest.cache_len:
                prefill[graph.tokens] = graph.method
            else:
                shorter[graph.tokens, graph.cache_len] = graph.method
        elif graph.cache_len is not None:
            decode[graph.cache_len] = graph.method
    if not prefill or not decode or len(files) != 1:
        raise BundleError(
            f"{bundle.folder.name}: an ExecuTorch bundle has one file with a prefill and a decode method"
        )
    return ProgramMethods(bundle.folder / files.pop(), prefill, shorter, decode)


def text_method(bundle: Bundle, graph: GraphEntry) -> tuple[Path, str]:
    """The program of an ExecuTorch bundle, and its one method.

    Raises:
        BundleError: The manifest names no method.
    """
    if graph.method is None:
        raise BundleError(f"{bundle.folder.name}: an ExecuTorch bundle has a method for each graph")
    return bundle.folder / graph.file, graph.method
