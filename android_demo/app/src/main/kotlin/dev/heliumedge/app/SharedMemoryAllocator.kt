package dev.heliumedge.app

import android.os.SharedMemory
import android.system.ErrnoException
import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.NotEnoughMemoryException
import dev.heliumedge.core.Phrase
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * Buffers outside the Java heap: `ByteBuffer.allocateDirect` takes its memory from the heap on Android, whose limit of
 * a few hundred megabytes a KV cache exceeds. Pages are zeroed, and taken from the system as they are written or read.
 */
object SharedMemoryAllocator : BufferAllocator {
    override fun allocate(bytes: Int): ByteBuffer = try {
        val memory = SharedMemory.create("helium-edge", bytes)
        val buffer = memory.mapReadWrite().order(ByteOrder.nativeOrder())
        // The mapping holds the memory; the descriptor is one of few that a process may have.
        memory.close()
        buffer
    } catch (error: ErrnoException) {
        throw NotEnoughMemoryException(Phrase.NO_BUFFER.with(bytes, error.message.orEmpty()))
    }

    // Without this the pages would stay until the garbage collector looks at the few bytes of the buffer's object.
    override fun release(buffer: ByteBuffer): Unit = SharedMemory.unmap(buffer)
}
