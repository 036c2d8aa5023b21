package dev.heliumedge.app

import dev.heliumedge.core.EngineFactory
import dev.heliumedge.core.Runtime
import dev.heliumedge.executorch.ExecutorchGraphEngine

/** The runtimes of this flavour. */
object Engines {
    val factories: Map<Runtime, EngineFactory> = mapOf(
        Runtime.EXECUTORCH to EngineFactory { bundle, threads, allocator -> ExecutorchGraphEngine(bundle, threads, allocator) },
    )
}
