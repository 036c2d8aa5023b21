"""From an opened bundle to something that runs it."""

from __future__ import annotations

from helium_edge.bundle.verify import Bundle
from helium_edge.errors import BundleError
from helium_edge.runtime.runner import Runner


def open_runner(bundle: Bundle, *, threads: int = 0, static: bool = False) -> Runner:
    """Load the graphs of a bundle.

    Args:
        bundle: The bundle; it may be one that is still being written.
        threads: Threads within an operator; 0 lets the runtime choose.
        static: Use the graphs of static shape even where one graph serves both phases.

    Raises:
        BundleError: No runner of this version serves the bundle's runtime, or a graph is missing or damaged.
        ResourceError: Not enough memory for the cache.
    """
    manifest = bundle.manifest
    if manifest.runtime != "onnxruntime":
        raise BundleError(
            f"{bundle.folder.name}: runs on {manifest.runtime}; this version runs bundles for onnxruntime",
            hint="pip install --upgrade helium-edge",
        )
    # onnxruntime is slow to import, and reading a manifest needs none of it.
    from helium_edge.runtime.onnx_runner import OnnxRunner

    return OnnxRunner(
        bundle.folder,
        manifest.graph_files(),
        manifest.decoder_spec(),
        threads=threads,
        static=static,
    )
