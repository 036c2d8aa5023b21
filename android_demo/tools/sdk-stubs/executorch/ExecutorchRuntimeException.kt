package org.pytorch.executorch

open class ExecutorchRuntimeException constructor(val errorCode: Int, details: String?) : RuntimeException(details) {
    companion object {
        const val NOT_SUPPORTED = 0x10
        const val NOT_IMPLEMENTED = 0x11
        const val OPERATOR_MISSING = 0x14
        const val NOT_FOUND = 0x20
        const val MEMORY_ALLOCATION_FAILED = 0x21
        const val ACCESS_FAILED = 0x22
        const val INVALID_PROGRAM = 0x23
        const val INVALID_EXTERNAL_DATA = 0x24
        const val OUT_OF_RESOURCES = 0x25
        const val DELEGATE_INVALID_COMPATIBILITY = 0x30
        const val DELEGATE_MEMORY_ALLOCATION_FAILED = 0x31
    }
}
