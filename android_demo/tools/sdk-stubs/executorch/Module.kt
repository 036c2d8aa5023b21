package org.pytorch.executorch

import org.pytorch.executorch.annotations.Experimental
import java.io.Closeable

/** The library behind it is for Android alone: nothing here runs. */
@Experimental
open class Module private constructor() : Closeable {
    open fun execute(methodName: String, vararg inputs: EValue): Array<EValue> = throw UnsatisfiedLinkError()

    open fun loadMethod(methodName: String): Unit = throw UnsatisfiedLinkError()

    open fun getMethods(): Array<String> = throw UnsatisfiedLinkError()

    open fun destroy(): Unit = throw UnsatisfiedLinkError()

    override fun close() = destroy()

    companion object {
        const val LOAD_MODE_MMAP = 1

        @JvmStatic
        @JvmOverloads
        fun load(modelPath: String?, loadMode: Int = 0, numThreads: Int = 0): Module = throw UnsatisfiedLinkError()
    }
}
