package dev.heliumedge.core

import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * Gives zeroed direct buffers in the byte order of the processor.
 *
 * On Android `ByteBuffer.allocateDirect` takes its memory from the app's Java heap, which is far too small for a KV
 * cache; the app gives an allocator over shared memory instead.
 */
public fun interface BufferAllocator {
    /**
     * @throws NotEnoughMemoryException There is no such memory.
     */
    public fun allocate(bytes: Int): ByteBuffer

    /** Gives a buffer of [allocate] back at once, where that can be done; nobody may touch it, or a view of it, again. */
    public fun release(buffer: ByteBuffer) {
        // Otherwise with the garbage, whenever that is collected.
    }

    /** For desktops and tests. */
    public object Direct : BufferAllocator {
        override fun allocate(bytes: Int): ByteBuffer = try {
            ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())
        } catch (error: OutOfMemoryError) {
            throw NotEnoughMemoryException(Phrase.NO_BUFFER.with(bytes, error.message.orEmpty()))
        }
    }
}
