"""From an opened bundle whose model is no language model to something that runs it."""

from __future__ import annotations

from helium_edge.bundle.graph_sections import GraphEntry
from helium_edge.bundle.verify import Bundle
from helium_edge.errors import BundleError
from helium_edge.runtime.heads import HeadRunner
from helium_edge.signature import CLASSIFY


def open_head(bundle: Bundle, *, threads: int = 0) -> HeadRunner:
    """Load the graph of a bundle.

    Args:
        bundle: The bundle; it may be one that is still being written.
        threads: Threads within an operator; 0 lets the runtime choose.

    Raises:
        BundleError: It holds a language model, no runner of this version serves it, or the graph is damaged.
    """
    manifest = bundle.manifest
    signature = manifest.head_signature()
    graph = next((graph for graph in manifest.graphs if graph.phase == CLASSIFY), None)
    if graph is None:
        raise BundleError(f"{bundle.folder.name}: has no graph of phase {CLASSIFY}")
    if (graph.input_specs(), graph.output_specs()) != (signature.inputs(), signature.outputs()):
        raise BundleError(f"{bundle.folder.name}: inputs and outputs of {graph.file} do not fit its head")
    return _open(bundle, graph, threads)


def _open(bundle: Bundle, graph: GraphEntry, threads: int) -> HeadRunner:
    # The runtimes are slow to import, and reading a manifest needs none of them.
    manifest = bundle.manifest
    signature = manifest.head_signature()
    kind = (manifest.target.name, manifest.runtime)
    if kind == ("onnx", "onnxruntime"):
        from helium_edge.runtime.onnx_head import OnnxHead

        return OnnxHead(bundle.folder, graph.file, signature, threads=threads)
    if kind == ("xnnpack", "executorch") and graph.method is not None:
        from helium_edge.runtime.executorch_head import ExecutorchHead

        return ExecutorchHead(bundle.folder / graph.file, graph.method, signature, threads=threads)
    if kind == ("coreml", "executorch") and graph.method is not None:
        from helium_edge.runtime.coreml_head import CoremlHead

        return CoremlHead(bundle.folder / graph.file, graph.method, signature)
    raise BundleError(
        f"{bundle.folder.name}: made for {manifest.target.name}, runs on {manifest.runtime}, which this version "
        "does not know",
        hint="pip install --upgrade helium-edge",
    )
