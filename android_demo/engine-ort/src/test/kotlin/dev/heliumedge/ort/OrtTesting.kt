package dev.heliumedge.ort

import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.BundleFolder
import dev.heliumedge.core.Decoder
import dev.heliumedge.core.Tokenizer
import dev.heliumedge.core.Vectors
import java.nio.ByteBuffer

internal fun open(name: String) = BundleFolder.open(Vectors.bundle(name))

internal fun BundleFolder.tokenizer() = Tokenizer.open(file(manifest.tokenizerFile))

/** The Java classes are older than the library, which its file name tells. */
internal fun engine(bundle: BundleFolder, allocator: BufferAllocator = BufferAllocator.Direct) =
    OrtGraphEngine(bundle, OrtOptions(threads = 1), allocator) { System.getenv("ORT_REAL_LIB")?.substringAfter(".so.") ?: it.version }

internal inline fun <T> running(bundle: BundleFolder, static: Boolean = false, allocator: BufferAllocator = BufferAllocator.Direct, use: (OrtGraphEngine, Decoder) -> T): T {
    val engine = engine(bundle, allocator)
    return Decoder(bundle.manifest, engine, allocator, static).use { use(engine, it) }
}

/** Keeps what it gave. */
internal class Keeping : BufferAllocator {
    val buffers = ArrayList<ByteBuffer>()

    override fun allocate(bytes: Int) = BufferAllocator.Direct.allocate(bytes).also { buffers.add(it) }
}
