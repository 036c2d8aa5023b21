package dev.heliumedge.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.Random

/**
 * Key and value buffers of every layer over [slots] tokens, allocated once and zeroed.
 *
 * Zeroed because slots that hold no token yet must be finite: 0 * NaN is NaN.
 *
 * @property buffers Key and value of each layer in turn, each (1, Hkv, S, D) or (Hkv, S, D).
 */
public class KvBuffers internal constructor(private val spec: CacheSpec, public val slots: Int, private val allocator: BufferAllocator) {
    public val buffers: List<ByteBuffer> = allocated()

    /** The shape that a runtime is told. */
    public val shape: LongArray
        get() = spec.copy(slots = slots).shape

    // Views with limits of their own, so that the runtime's view of a buffer stays whole; made once.
    private val writers = buffers.map { it.duplicate() }
    private val readers = buffers.map { it.duplicate() }

    /** All of them, or none: what was got before one is refused is given back. */
    private fun allocated(): List<ByteBuffer> {
        val got = ArrayList<ByteBuffer>()
        try {
            repeat(2 * spec.layers) { got.add(allocator.allocate(spec.kvHeads * slots * spec.rowBytes)) }
        } catch (error: Throwable) {
            got.forEach(allocator::release)
            throw error
        }
        return got
    }

    /** Whether nobody may touch [buffers] any more. */
    internal var isReleased: Boolean = false
        private set

    /** Gives the memory back; steps that are bound to it are not run again. */
    internal fun release() {
        isReleased = true
        buffers.forEach(allocator::release)
    }

    /**
     * Copies the first [count] rows of each head to the slots from [position] on.
     *
     * @param rows By key and value of each layer in turn: (Hkv, width, D), of which the host keeps the real rows. Each is
     *   asked for once, in order: they may share their memory.
     */
    internal fun write(rows: List<ByteBuffer>, width: Int, count: Int, position: Int) {
        for (index in writers.indices) {
            val fresh = rows[index]
            for (head in 0 until spec.kvHeads) {
                copy(fresh, head * width, writers[index], head * slots + position, count)
            }
        }
    }

    /**
     * The first [count] rows of each head, each a view of its own.
     *
     * @param index Of key and value of each layer in turn.
     */
    internal fun firstRows(index: Int, count: Int): List<ByteBuffer> = List(spec.kvHeads) { head ->
        val view = buffers[index].duplicate()
        view.clear()
        view.limit((head * slots + count) * spec.rowBytes).position(head * slots * spec.rowBytes)
        view.slice()
    }

    /** Writes every slot with small numbers, so that each page is there and none of them is NaN. */
    internal fun fill(random: Random) {
        val block = ByteArray(1 shl 16)
        val values = ByteBuffer.wrap(block).order(ByteOrder.nativeOrder())
        while (values.remaining() >= Float.SIZE_BYTES) {
            when (spec.dtype) {
                Dtype.FLOAT32 -> values.putFloat(random.nextFloat() - 0.5f)
                // Bytes below 0x38: small positive numbers in float16, and plain ones in int8.
                else -> values.put(random.nextInt(0x38).toByte())
            }
        }
        for (writer in writers) {
            writer.clear()
            while (writer.hasRemaining()) writer.put(block, 0, minOf(block.size, writer.remaining()))
        }
    }

    /** Copies the slots from [from] up to [to] of a cache with another number of slots. */
    internal fun copyFrom(other: KvBuffers, from: Int, to: Int) {
        for (index in writers.indices) {
            for (head in 0 until spec.kvHeads) {
                copy(other.readers[index], head * other.slots + from, writers[index], head * slots + from, to - from)
            }
        }
    }

    private fun copy(source: ByteBuffer, sourceRow: Int, target: ByteBuffer, targetRow: Int, rows: Int) {
        source.clear()
        source.limit((sourceRow + rows) * spec.rowBytes).position(sourceRow * spec.rowBytes)
        target.clear()
        target.limit((targetRow + rows) * spec.rowBytes).position(targetRow * spec.rowBytes)
        target.put(source)
        // The rows are read by others too, whole.
        source.clear()
    }
}

/**
 * The external KV cache of one conversation: the full buffers, how many tokens they hold, and, where the bundle has
 * methods with shorter caches, a second set of buffers that follows the full one row by row.
 *
 * A static attention pays for every slot, so a shorter cache is faster while the conversation fits it. There is one at a
 * time: where prompts are read in another than they are answered in, the rows so far are copied twice for each turn of a
 * conversation, and for no token.
 */
public class KvCache(
    private val spec: CacheSpec,
    private val allocator: BufferAllocator,
) : AutoCloseable {
    private var bucket: KvBuffers? = null
    private var synced = 0
    private var closed = false

    /** The buffers that hold every token. */
    public val full: KvBuffers = KvBuffers(spec, spec.slots, allocator)

    /** Tokens that fit. */
    public val slots: Int get() = spec.slots

    /** Tokens in the cache, which is the position of the next one. */
    public var position: Int = 0
        private set

    /** Buffers with that many slots, holding all tokens so far. */
    public fun buffersOf(slots: Int): KvBuffers {
        if (slots == spec.slots) {
            // Memory is worth more than a copy, should the conversation start anew.
            dropBucket()
            return full
        }
        val chosen = bucket?.takeIf { it.slots == slots } ?: newBucket(slots)
        if (synced < position) chosen.copyFrom(full, synced, position)
        synced = position
        return chosen
    }

    /** An empty one; the one before goes first, so that there are never two, nor one that is gone should this be refused. */
    private fun newBucket(slots: Int): KvBuffers {
        dropBucket()
        return KvBuffers(spec, slots, allocator).also { bucket = it }
    }

    private fun dropBucket() {
        bucket?.release()
        bucket = null
        synced = 0
    }

    /** Gives all memory back, at once where the allocator can. */
    override fun close() {
        if (closed) return
        closed = true
        dropBucket()
        full.release()
    }

    /**
     * Takes note of [count] tokens that a step has run.
     *
     * @param rows The new rows where the host writes them (`append`); empty where the kernel wrote them (`in_place`).
     * @param width Rows of each head in [rows]; those from [count] on are padding.
     */
    public fun advance(rows: List<ByteBuffer>, width: Int, count: Int) {
        check(position + count <= spec.slots) { "the caller checks for room" }
        if (rows.isNotEmpty()) full.write(rows, width, count, position)
        position += count
    }

    /** Takes the first [to] slots for tokens, whatever they hold: speed does not depend on it. */
    internal fun seek(to: Int) {
        if (to !in 0..spec.slots) throw InvalidRequestException("position $to is outside a cache of ${spec.slots} slots", "Allowed: 0 to ${spec.slots}.")
        position = to
        synced = minOf(synced, to)
    }

    /** Starts a new conversation, or goes back to an earlier [to]; slots from there on have no effect. */
    public fun rewind(to: Int = 0) {
        if (to !in 0..position) throw InvalidRequestException("position $to is not in the conversation of $position tokens", "Allowed: 0 to $position.")
        position = to
        synced = minOf(synced, to)
    }
}
