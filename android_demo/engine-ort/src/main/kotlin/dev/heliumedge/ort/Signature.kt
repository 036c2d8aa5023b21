package dev.heliumedge.ort

import ai.onnxruntime.NodeInfo
import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OrtSession
import ai.onnxruntime.TensorInfo
import dev.heliumedge.core.Dtype
import dev.heliumedge.core.GraphMismatchException
import dev.heliumedge.core.GraphSpec
import dev.heliumedge.core.TensorSpec

/**
 * Compares a loaded graph with the manifest: with other shapes the runtime would write past the end of a buffer.
 *
 * @throws GraphMismatchException The first tensor that differs.
 */
internal fun checkSignature(session: OrtSession, graph: GraphSpec) {
    check(graph, "input", graph.inputs, named("read ${graph.file}") { session.inputInfo })
    check(graph, "output", graph.outputs, named("read ${graph.file}") { session.outputInfo })
}

private fun check(graph: GraphSpec, side: String, listed: List<TensorSpec>, found: Map<String, NodeInfo>) {
    (found.keys - listed.map { it.name }.toSet()).firstOrNull()?.let {
        throw GraphMismatchException("${graph.label}: the $side $it is not in the manifest")
    }
    for (spec in listed) {
        val info = found[spec.name]?.info as? TensorInfo
            ?: throw GraphMismatchException("${graph.label}: the $side ${spec.name} is missing")
        val expected = graph.fileShape(spec)
        if (info.shape.toList() != expected || dtypeOf(info.type) != spec.dtype) {
            throw GraphMismatchException(
                "${graph.label}: the $side ${spec.name} is ${info.shape.toList()} ${info.type}, the manifest says $expected ${spec.dtype.id}",
            )
        }
    }
}

private fun dtypeOf(type: OnnxJavaType): Dtype? = when (type) {
    OnnxJavaType.FLOAT -> Dtype.FLOAT32
    OnnxJavaType.FLOAT16 -> Dtype.FLOAT16
    OnnxJavaType.INT8 -> Dtype.INT8
    OnnxJavaType.INT32 -> Dtype.INT32
    OnnxJavaType.INT64 -> Dtype.INT64
    else -> null
}
