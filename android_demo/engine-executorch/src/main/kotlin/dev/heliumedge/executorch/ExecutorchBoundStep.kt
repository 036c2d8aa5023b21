package dev.heliumedge.executorch

import dev.heliumedge.core.BoundStep
import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.Dtype
import dev.heliumedge.core.EngineException
import dev.heliumedge.core.GraphMismatchException
import dev.heliumedge.core.GraphSpec
import dev.heliumedge.core.KvBuffers
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.Role
import dev.heliumedge.core.TensorSpec
import org.pytorch.executorch.EValue
import org.pytorch.executorch.Tensor
import java.nio.Buffer
import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.nio.LongBuffer
import java.nio.ShortBuffer

/**
 * One method: its inputs are tensors over memory of [allocator], or the cache's own, made once. Its outputs lie in memory
 * of the program, which its next call overwrites: logits are copied at once, and new rows as they are asked for, one after
 * the other into the same memory.
 */
internal class ExecutorchBoundStep(
    private val program: Program,
    private val graph: GraphSpec,
    override val width: Int,
    cache: KvBuffers?,
    private val allocator: BufferAllocator,
) : BoundStep {
    private val method = graph.methodName()
    private val inputs: Array<EValue>
    private val scratch = HashMap<Int, ByteBuffer>()
    private val targets: List<Target>
    private val rows: List<Int>
    private var outputs: Array<EValue> = emptyArray()
    private var position: LongBuffer? = null
    private var lastIndex: LongBuffer? = null

    override lateinit var ids: LongBuffer
        private set
    override lateinit var logits: FloatBuffer
        private set
    override val newRows: List<ByteBuffer> = object : AbstractList<ByteBuffer>() {
        override val size: Int get() = rows.size

        override fun get(index: Int): ByteBuffer = targets[rows[index]].take(outputs[rows[index]].toTensor())
    }

    /** Tensors made for this step. */
    val tensorCount: Int get() = inputs.size

    init {
        val past = cache?.buffers.orEmpty().iterator()
        inputs = Array(graph.inputs.size) { index ->
            val spec = graph.inputs[index]
            EValue.from(
                when (spec.role) {
                    Role.PAST_KEY, Role.PAST_VALUE -> tensor(if (past.hasNext()) past.next() else throw mismatch(spec), spec, cache!!.shape)
                    Role.TOKENS -> longs(spec).also { ids = it.first }.second
                    Role.PAST_LENGTH -> longs(spec).also { position = it.first }.second
                    Role.LAST_INDEX -> longs(spec).also { lastIndex = it.first }.second
                    else -> throw mismatch(spec)
                },
            )
        }
        targets = graph.outputs.map(::target)
        rows = targets.indices.filter { graph.outputs[it].role != Role.LOGITS }
    }

    override fun run(position: Int, lastIndex: Int) {
        this.position?.put(0, position.toLong())
        this.lastIndex?.put(0, lastIndex.toLong())
        val outputs = program.execute(method, inputs)
        if (outputs.size != targets.size) {
            throw EngineException("${graph.label} returned ${outputs.size} outputs, the manifest says ${targets.size}", Phrase.PUSH_DAMAGED.with())
        }
        this.outputs = outputs
        for (index in outputs.indices) if (graph.outputs[index].role == Role.LOGITS) targets[index].take(outputs[index].toTensor())
    }

    override fun close(): Unit = Unit

    private fun longs(spec: TensorSpec): Pair<LongBuffer, Tensor> {
        if (spec.dtype != Dtype.INT64) throw mismatch(spec)
        val shape = graph.shapeOf(spec, width, rows = 1)
        val buffer = allocator.allocate(bytes(spec, shape)).asLongBuffer()
        return buffer to Tensor.fromBlob(buffer, shape)
    }

    /** A tensor over exactly the bytes of a cache buffer. */
    private fun tensor(buffer: ByteBuffer, spec: TensorSpec, shape: LongArray): Tensor {
        if (spec.shape != shape.toList()) throw GraphMismatchException("${graph.label}: ${spec.name} is ${spec.shape}, the cache ${shape.toList()}")
        val view = buffer.duplicate()
        view.clear()
        view.limit(bytes(spec, shape))
        val bytes = view.slice().order(buffer.order())
        return when (spec.dtype) {
            Dtype.FLOAT32 -> Tensor.fromBlob(bytes.asFloatBuffer(), shape)
            // ExecuTorch's Java API takes shorts for float16.
            Dtype.FLOAT16 -> Tensor.fromBlob(bytes.asShortBuffer(), shape)
            Dtype.INT8 -> Tensor.fromBlob(bytes, shape)
            else -> throw mismatch(spec)
        }
    }

    private fun target(spec: TensorSpec): Target {
        val size = bytes(spec, graph.shapeOf(spec, width, rows = 1))
        val bytes = when (spec.role) {
            Role.LOGITS -> if (spec.dtype == Dtype.FLOAT32) allocator.allocate(size) else throw mismatch(spec)
            Role.NEW_KEY, Role.NEW_VALUE -> scratch.getOrPut(size) { allocator.allocate(size) }
            else -> throw mismatch(spec)
        }
        if (spec.role == Role.LOGITS) logits = bytes.asFloatBuffer()
        return when (spec.dtype) {
            Dtype.FLOAT32 -> FloatTarget(bytes, bytes.asFloatBuffer(), spec)
            Dtype.FLOAT16 -> HalfTarget(bytes, bytes.asShortBuffer(), spec)
            Dtype.INT8 -> ByteTarget(bytes, bytes.duplicate(), spec)
            else -> throw mismatch(spec)
        }
    }

    private fun bytes(spec: TensorSpec, shape: LongArray): Int = shape.fold(spec.dtype.bytes.toLong()) { size, dimension -> size * dimension }.toInt()

    private fun mismatch(spec: TensorSpec) =
        GraphMismatchException("${graph.label}: ${spec.name} is ${spec.role.id} of type ${spec.dtype.id}, which this app cannot serve")
}

/** Where an output is copied to: [bytes], which [buffer] is a view of. */
private abstract class Target(private val bytes: ByteBuffer, private val buffer: Buffer, private val spec: TensorSpec) {
    fun take(tensor: Tensor): ByteBuffer {
        // An output of another size would fill the buffer in part, and leave numbers of the call before.
        if (tensor.numel() != buffer.capacity().toLong()) {
            throw GraphMismatchException("${spec.name} has ${tensor.numel()} numbers, the manifest says ${buffer.capacity()}")
        }
        buffer.clear()
        named("copy ${spec.name}") { copy(tensor) }
        return bytes
    }

    protected abstract fun copy(tensor: Tensor)
}

private class FloatTarget(bytes: ByteBuffer, private val buffer: FloatBuffer, spec: TensorSpec) : Target(bytes, buffer, spec) {
    override fun copy(tensor: Tensor) = tensor.copyDataInto(buffer)
}

private class HalfTarget(bytes: ByteBuffer, private val buffer: ShortBuffer, spec: TensorSpec) : Target(bytes, buffer, spec) {
    override fun copy(tensor: Tensor) = tensor.copyDataInto(buffer)
}

private class ByteTarget(bytes: ByteBuffer, private val buffer: ByteBuffer, spec: TensorSpec) : Target(bytes, buffer, spec) {
    override fun copy(tensor: Tensor) = tensor.copyDataInto(buffer)
}
