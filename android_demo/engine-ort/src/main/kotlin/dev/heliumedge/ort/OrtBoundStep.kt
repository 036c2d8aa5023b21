package dev.heliumedge.ort

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import dev.heliumedge.core.BoundStep
import dev.heliumedge.core.BufferAllocator
import dev.heliumedge.core.Dtype
import dev.heliumedge.core.GraphMismatchException
import dev.heliumedge.core.GraphSpec
import dev.heliumedge.core.KvBuffers
import dev.heliumedge.core.Role
import dev.heliumedge.core.TensorSpec
import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.nio.LongBuffer

/**
 * One graph with one number of tokens: every input and output is a tensor over memory that is allocated here, or is the
 * cache's own. With `in_place` the past and the present of a layer are the same tensor, so that nothing is copied.
 */
internal class OrtBoundStep(
    private val environment: OrtEnvironment,
    private val session: OrtSession,
    private val runOptions: OrtSession.RunOptions,
    private val graph: GraphSpec,
    override val width: Int,
    private val rowsOfLogits: Int,
    cache: KvBuffers?,
    private val allocator: BufferAllocator,
) : BoundStep {
    private val tensors = ArrayList<OnnxTensor>()
    private val allocated = ArrayList<ByteBuffer>()
    private val inputs = LinkedHashMap<String, OnnxTensor>()
    private val outputs = LinkedHashMap<String, OnnxTensor>()
    private val rows = ArrayList<ByteBuffer>()
    private var position: ByteBuffer? = null
    private var lastIndex: ByteBuffer? = null

    override lateinit var ids: LongBuffer
        private set
    override lateinit var logits: FloatBuffer
        private set
    override val newRows: List<ByteBuffer> get() = rows

    /** Tensors made for this step. */
    val tensorCount: Int get() = tensors.size

    init {
        try {
            bind(cache)
        } catch (error: Throwable) {
            // Nobody will close a step that was never there.
            close()
            throw error
        }
    }

    private fun bind(cache: KvBuffers?) {
        val cacheTensors = cache?.let { kv -> kv.buffers.map { tensor(it, it.capacity(), graph.cacheDtype(), kv.shape) } }.orEmpty()
        val past = cacheTensors.iterator()
        for (spec in graph.inputs) {
            inputs[spec.name] = when (spec.role) {
                Role.PAST_KEY, Role.PAST_VALUE -> if (past.hasNext()) past.next() else throw mismatch(spec)
                Role.TOKENS -> fresh(spec) { ids = it.asLongBuffer() }
                Role.PAST_LENGTH -> fresh(spec) { position = it }
                Role.LAST_INDEX -> fresh(spec) { lastIndex = it }
                else -> throw mismatch(spec)
            }
        }
        val present = cacheTensors.iterator()
        for (spec in graph.outputs) {
            outputs[spec.name] = when (spec.role) {
                Role.PRESENT_KEY, Role.PRESENT_VALUE -> if (present.hasNext()) present.next() else throw mismatch(spec)
                Role.LOGITS -> fresh(spec) { logits = it.asFloatBuffer() }
                Role.NEW_KEY, Role.NEW_VALUE -> fresh(spec) { rows.add(it) }
                else -> throw mismatch(spec)
            }
        }
    }

    override fun run(position: Int, lastIndex: Int) {
        put(this.position, graph.input(Role.PAST_LENGTH), 0, position)
        for (row in 0 until rowsOfLogits) put(this.lastIndex, graph.input(Role.LAST_INDEX), row, lastIndex - rowsOfLogits + 1 + row)
        // The result only lists the pinned outputs; closing it leaves their memory alone.
        named("run ${graph.label}") { session.run(inputs, emptySet(), outputs, runOptions).close() }
    }

    /** Ends the step and gives its memory back: neither [ids], [logits] nor [newRows] may be touched again. */
    override fun close() {
        tensors.forEach { it.close() }
        tensors.clear()
        allocated.forEach(allocator::release)
        allocated.clear()
    }

    private fun put(buffer: ByteBuffer?, spec: TensorSpec?, index: Int, value: Int) {
        if (buffer == null || spec == null) return
        if (spec.dtype == Dtype.INT64) buffer.putLong(8 * index, value.toLong()) else buffer.putInt(4 * index, value)
    }

    private fun fresh(spec: TensorSpec, keep: (ByteBuffer) -> Unit): OnnxTensor {
        val shape = graph.shapeOf(spec, width, rowsOfLogits)
        val bytes = shape.fold(spec.dtype.bytes.toLong()) { size, dimension -> size * dimension }.toInt()
        val buffer = allocator.allocate(bytes)
        allocated.add(buffer)
        keep(buffer)
        return tensor(buffer, bytes, spec.dtype, shape)
    }

    private fun tensor(buffer: ByteBuffer, bytes: Int, dtype: Dtype, shape: LongArray): OnnxTensor {
        // A view of its own: ONNX Runtime reads position and limit, which the host moves.
        val view = buffer.duplicate().order(buffer.order())
        view.clear()
        view.limit(bytes)
        val tensor = OnnxTensor.createTensor(environment, view, shape, JAVA_TYPES.getValue(dtype))
        tensors.add(tensor)
        return tensor
    }

    private fun mismatch(spec: TensorSpec) = GraphMismatchException("${graph.label}: ${spec.name} has the role ${spec.role.id}, which this app cannot serve")

    private fun GraphSpec.cacheDtype(): Dtype = (input(Role.PAST_KEY) ?: throw GraphMismatchException("$label takes no cache")).dtype
}

private val JAVA_TYPES = mapOf(
    Dtype.FLOAT32 to OnnxJavaType.FLOAT,
    Dtype.FLOAT16 to OnnxJavaType.FLOAT16,
    Dtype.INT8 to OnnxJavaType.INT8,
    Dtype.INT32 to OnnxJavaType.INT32,
    Dtype.INT64 to OnnxJavaType.INT64,
)
