package dev.heliumedge.app

import dev.heliumedge.core.EngineFactory
import dev.heliumedge.core.Runtime
import dev.heliumedge.ort.OrtGraphEngine
import dev.heliumedge.ort.OrtOptions

/** The runtimes of this flavour. */
object Engines {
    val factories: Map<Runtime, EngineFactory> = mapOf(
        Runtime.ONNX to EngineFactory { bundle, threads, allocator -> OrtGraphEngine(bundle, OrtOptions(threads), allocator) },
    )
}
