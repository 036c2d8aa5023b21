package dev.heliumedge.app

import dev.heliumedge.core.EngineFactory
import dev.heliumedge.core.Runtime
import dev.heliumedge.executorch.ExecutorchEngineFactory

/** The runtimes of this flavour. */
object Engines {
    val factories: Map<Runtime, EngineFactory> = mapOf(
        Runtime.EXECUTORCH to ExecutorchEngineFactory(BuildConfig.EXECUTORCH_VERSION),
    )
}
