package dev.heliumedge.ort

import ai.onnxruntime.OrtEnvironment
import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.BundleFolder
import dev.heliumedge.core.EngineFactory
import dev.heliumedge.core.GraphEngine
import dev.heliumedge.core.Manifest

/**
 * ONNX Runtime for a [dev.heliumedge.core.BundleLoader].
 *
 * @param spinning Whether idle threads wait busily: a little faster, and hard on the battery.
 * @param version Of the library. The binding tells its own, which in an app is the same.
 */
public class OrtEngineFactory(
    private val spinning: Boolean = false,
    private val version: (OrtEnvironment) -> String = { it.version },
) : EngineFactory {
    override fun open(bundle: BundleFolder, threads: Int, allocator: BufferAllocator): GraphEngine =
        OrtGraphEngine(bundle, OrtOptions(threads, spinning), allocator, version)

    override fun check(manifest: Manifest): Unit = checkManifest(manifest, version)
}
