package dev.heliumedge.executorch

import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.BundleFolder
import dev.heliumedge.core.EngineFactory
import dev.heliumedge.core.GraphEngine
import dev.heliumedge.core.Manifest

/**
 * ExecuTorch for a [dev.heliumedge.core.BundleLoader].
 *
 * @param version Of the archive that the app was built with, as 1.5.1; null where nobody knows, and then no bundle is too
 *   new.
 */
public class ExecutorchEngineFactory(private val version: String? = null) : EngineFactory {
    override fun open(bundle: BundleFolder, threads: Int, allocator: BufferAllocator): GraphEngine =
        ExecutorchGraphEngine(bundle, threads, allocator, version)

    override fun check(manifest: Manifest) {
        checked(manifest, version)
    }
}
