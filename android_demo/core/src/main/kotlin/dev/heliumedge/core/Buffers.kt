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

    /** For desktops and tests. */
    public object Direct : BufferAllocator {
        override fun allocate(bytes: Int): ByteBuffer = try {
            ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())
        } catch (error: OutOfMemoryError) {
            throw NotEnoughMemoryException("no memory for a buffer of $bytes bytes (${error.message})")
        }
    }
}
