package org.pytorch.executorch

import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.LongBuffer
import java.nio.ShortBuffer

/** As much of a tensor as is needed of one: a view of a direct buffer, which is checked as the library does. */
abstract class Tensor internal constructor(shape: LongArray, internal val data: Buffer) {
    private val shape = shape.copyOf()

    /** The number of its element type in ExecuTorch. */
    internal val code: Long
        get() = when (data) {
            is FloatBuffer -> FLOAT
            is LongBuffer -> INT64
            is ShortBuffer -> HALF
            else -> INT8
        }

    init {
        require(data.isDirect) { "the buffer is not direct" }
        require(order(data) == ByteOrder.nativeOrder()) { "the buffer has another byte order" }
        require(data.capacity().toLong() == numel()) { "${data.capacity()} elements, the shape has ${numel()}" }
    }

    fun numel(): Long = shape.fold(1L, Long::times)

    fun shape(): LongArray = shape.copyOf()

    open val dataAsFloatArray: FloatArray
        get() = FloatArray(numel().toInt()) { (data as FloatBuffer).get(it) }

    open val dataAsLongArray: LongArray
        get() = LongArray(numel().toInt()) { (data as LongBuffer).get(it) }

    open fun copyDataInto(dst: FloatBuffer) {
        dst.put((data as FloatBuffer).duplicate().also { it.rewind() })
    }

    open fun copyDataInto(dst: ByteBuffer) {
        dst.put((data as ByteBuffer).duplicate().also { it.rewind() })
    }

    open fun copyDataInto(dst: ShortBuffer) {
        dst.put((data as ShortBuffer).duplicate().also { it.rewind() })
    }

    private class View(shape: LongArray, data: Buffer) : Tensor(shape, data)

    companion object {
        private const val INT8 = 1L
        private const val INT64 = 4L
        private const val HALF = 5L
        private const val FLOAT = 6L

        private fun order(data: Buffer): ByteOrder = when (data) {
            is FloatBuffer -> data.order()
            is LongBuffer -> data.order()
            is ShortBuffer -> data.order()
            is ByteBuffer -> data.order()
            else -> throw IllegalArgumentException("a buffer of another type")
        }

        /** A tensor that the runtime returned. */
        internal fun over(code: Long, data: ByteBuffer, shape: LongArray): Tensor = when (code) {
            FLOAT -> fromBlob(data.asFloatBuffer(), shape)
            INT64 -> fromBlob(data.asLongBuffer(), shape)
            HALF -> fromBlob(data.asShortBuffer(), shape)
            INT8 -> fromBlob(data, shape)
            else -> throw IllegalArgumentException("a tensor of type $code")
        }

        @JvmStatic
        fun allocateFloatBuffer(numElements: Int): FloatBuffer =
            ByteBuffer.allocateDirect(4 * numElements).order(ByteOrder.nativeOrder()).asFloatBuffer()

        @JvmStatic
        fun fromBlob(data: ByteBuffer, shape: LongArray): Tensor = View(shape, data)

        @JvmStatic
        fun fromBlob(data: FloatBuffer, shape: LongArray): Tensor = View(shape, data)

        @JvmStatic
        fun fromBlob(data: ShortBuffer, shape: LongArray): Tensor = View(shape, data)

        @JvmStatic
        fun fromBlob(data: LongBuffer, shape: LongArray): Tensor = View(shape, data)
    }
}
