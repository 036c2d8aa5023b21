package org.pytorch.executorch

import org.pytorch.executorch.annotations.Experimental
import java.io.Closeable
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * As much of the published class as the engine calls, over the runtime of the exporter's Python package (`tools/executorch-jni`) where
 * `executorch.native.path` names its library. Like the published one it hands inputs over where they lie, gives outputs
 * no memory, and returns them as views of the program's, which the next call overwrites.
 */
@Experimental
open class Module private constructor(path: String, loadMode: Int, numThreads: Int) : Closeable {
    private var handle = open(path, loadMode, numThreads)

    open fun execute(methodName: String, vararg inputs: EValue): Array<EValue> {
        val tensors = inputs.map { it.toTensor() }
        val buffers = Array(tensors.size) { tensors[it].data }
        val found = run(opened(), methodName, buffers, Array(tensors.size) { longArrayOf(tensors[it].code, *tensors[it].shape()) })
        return Array(found.size / 2) { value(found[2 * it] as ByteBuffer?, found[2 * it + 1] as LongArray) }
    }

    open fun loadMethod(methodName: String) = prepare(opened(), methodName)

    open fun getMethods(): Array<String> = names(opened())

    open fun destroy() {
        if (handle != 0L) close(handle)
        handle = 0
    }

    override fun close() = destroy()

    private fun opened(): Long {
        check(handle != 0L) { "Module has been destroyed" }
        return handle
    }

    companion object {
        const val LOAD_MODE_MMAP = 1

        init {
            System.load(System.getProperty("executorch.native.path") ?: throw UnsatisfiedLinkError("no library of ExecuTorch for this machine"))
        }

        @JvmStatic
        @JvmOverloads
        fun load(modelPath: String?, loadMode: Int = 0, numThreads: Int = 0): Module = Module(modelPath!!, loadMode, numThreads)

        private fun value(memory: ByteBuffer?, typeAndShape: LongArray): EValue {
            val (type, shape) = typeAndShape[0] to typeAndShape.drop(1).toLongArray()
            return if (memory == null) EValue.from(shape.single()) else EValue.from(Tensor.over(type, memory.order(ByteOrder.nativeOrder()), shape))
        }

        @JvmStatic
        private external fun open(path: String, loadMode: Int, numThreads: Int): Long

        @JvmStatic
        private external fun close(handle: Long)

        @JvmStatic
        private external fun names(handle: Long): Array<String>

        @JvmStatic
        private external fun prepare(handle: Long, method: String)

        /** Inputs by type and shape; of each result its memory, or null for an integer, and its type with its shape or value. */
        @JvmStatic
        private external fun run(handle: Long, method: String, buffers: Array<Buffer>, typesAndShapes: Array<LongArray>): Array<Any?>
    }
}
