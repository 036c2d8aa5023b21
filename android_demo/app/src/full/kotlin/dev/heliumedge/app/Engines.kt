package dev.heliumedge.app

import dev.heliumedge.core.EngineFactory
import dev.heliumedge.core.Runtime
import dev.heliumedge.executorch.ExecutorchEngineFactory
import dev.heliumedge.ort.OrtEngineFactory

/** The runtimes of this flavour. */
object Engines {
    val factories: Map<Runtime, EngineFactory> = mapOf(
        Runtime.ONNX to OrtEngineFactory(),
        Runtime.EXECUTORCH to ExecutorchEngineFactory(BuildConfig.EXECUTORCH_VERSION),
    )
}
