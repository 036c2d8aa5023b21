package org.pytorch.executorch

import org.pytorch.executorch.annotations.Experimental

@Experimental
class EValue private constructor(private val data: Any) {
    val isInt: Boolean
        get() = data is Long

    fun toTensor(): Tensor = data as Tensor

    fun toInt(): Long = data as Long

    companion object {
        @JvmStatic
        fun from(tensor: Tensor): EValue = EValue(tensor)

        @JvmStatic
        fun from(value: Long): EValue = EValue(value)
    }
}
