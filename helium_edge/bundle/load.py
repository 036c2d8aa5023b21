"""From an opened bundle to something that runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from helium_edge.bundle.verify import Bundle
from helium_edge.errors import BundleError
from helium_edge.runtime.runner import CachedRunner
from helium_edge.runtime.versions import check_runtime


def open_runner(bundle: Bundle, *, threads: int = 0, static: bool = False) -> CachedRunner:
    """Load the graphs of a bundle.

    Args:
        bundle: The bundle; it may be one that is still being written.
        threads: Threads within an operator; 0 lets the runtime choose.
        static: Use the graphs of static shape even where one graph serves both phases.

    Raises:
        BundleError: No runner of this version serves the bundle's runtime, or a graph is missing or damaged.
        ResourceError: Not enough memory for the cache.
        MissingToolError: The installed runtime is older than the graphs need.
    """
    manifest = bundle.manifest
    int8_cache = manifest.cache is not None and manifest.cache.dtype == "int8"
    check_runtime(manifest.runtime, manifest.runtime_min_version, int8_cache=int8_cache)
    opener = _OPENERS.get((manifest.target.name, manifest.runtime))
    if opener is None:
        known = ", ".join(f"{target} on {runtime}" for target, runtime in _OPENERS)
        raise BundleError(
            f"{bundle.folder.name}: made for {manifest.target.name}, runs on {manifest.runtime}, which this "
            f"version does not know; known: {known}",
            hint="pip install --upgrade helium-edge",
        )
    return opener(bundle, threads, static)


# The runtimes are slow to import, and reading a manifest needs none of them.


def _open_onnx(bundle: Bundle, threads: int, static: bool) -> CachedRunner:
    from helium_edge.runtime.onnx_runner import OnnxRunner

    manifest = bundle.manifest
    return OnnxRunner(
        bundle.folder, manifest.graph_files(), manifest.decoder_spec(), threads=threads, static=static
    )


def _open_xnnpack(bundle: Bundle, threads: int, static: bool) -> CachedRunner:
    del static  # all of its graphs are
    from helium_edge.runtime.executorch_runner import ExecutorchRunner

    path, prefill, decode = _methods(bundle)
    return ExecutorchRunner(path, bundle.manifest.decoder_spec(), decode, prefill=prefill, threads=threads)


def _open_coreml(bundle: Bundle, threads: int, static: bool) -> CachedRunner:
    del threads, static  # evaluated by an interpreter
    from helium_edge.runtime.coreml_runner import CoremlRunner

    return CoremlRunner(_methods(bundle)[0], bundle.manifest.decoder_spec())


def _methods(bundle: Bundle) -> tuple[Path, dict[int, str], dict[int, str]]:
    """The program of an ExecuTorch bundle, its prefill methods by tokens, its decode methods by cache length."""
    prefill: dict[int, str] = {}
    decode: dict[int, str] = {}
    files = set()
    for graph in bundle.manifest.graphs:
        files.add(graph.file)
        if graph.method is None:
            continue
        if graph.phase == "prefill" and graph.tokens is not None:
            prefill[graph.tokens] = graph.method
        elif graph.cache_len is not None:
            decode[graph.cache_len] = graph.method
    if not prefill or not decode or len(files) != 1:
        raise BundleError(
            f"{bundle.folder.name}: an ExecuTorch bundle has one file with a prefill and a decode method"
        )
    return bundle.folder / files.pop(), prefill, decode


_OPENERS: dict[tuple[str, str], Callable[[Bundle, int, bool], CachedRunner]] = {
    ("onnx", "onnxruntime"): _open_onnx,
    ("xnnpack", "executorch"): _open_xnnpack,
    ("coreml", "executorch"): _open_coreml,
}
