package dev.heliumedge.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.LongBuffer
import java.util.IdentityHashMap

/** One call that a [FakeEngine] was asked for. */
class FakeCall(val graph: GraphSpec, val ids: List<Int>, val position: Int, val lastIndex: Int, val cache: List<List<Int>>)

/**
 * A runtime that computes nothing: it records what it is given, and answers with rows that tell calls apart and with
 * logits that [choose] makes likely.
 */
class FakeEngine(private val vocabSize: Int, private val choose: (FakeCall) -> Int = { 0 }) : GraphEngine {
    val calls = ArrayList<FakeCall>()
    val loaded = LinkedHashSet<GraphSpec>()
    var bound = 0
    var closedSteps = 0
    var interrupts = 0
    var resumes = 0
    var closed = false
    var beforeRun: () -> Unit = {}
    var afterRun: (FloatBuffer) -> Unit = {}
    var recordsCache = true
    var failsToBind = false

    override val name = "fake"

    override fun load(graph: GraphSpec) {
        if (failsToBind) throw EngineException("cannot load", "Repair the engine.")
        loaded.add(graph)
    }

    override fun bind(graph: GraphSpec, width: Int, cache: KvBuffers?, rows: Int): BoundStep {
        if (failsToBind) throw EngineException("cannot bind", "Repair the engine.")
        graph.checkRows(width, rows)
        bound++
        return Step(graph, width, rows, cache)
    }

    override fun interrupt() {
        interrupts++
    }

    override fun resume() {
        resumes++
    }

    override fun close() {
        closed = true
    }

    private inner class Step(private val graph: GraphSpec, override val width: Int, private val rows: Int, private val cache: KvBuffers?) : BoundStep {
        override val ids: LongBuffer = LongBuffer.allocate(width)
        override val logits: FloatBuffer = FloatBuffer.allocate(graph.output(Role.LOGITS)!!.let { graph.shapeOf(it, width, rows) }.size())
        override val newRows: List<ByteBuffer> = graph.outputs.filter { it.role == Role.NEW_KEY || it.role == Role.NEW_VALUE }.map { spec ->
            ByteBuffer.allocate(4 * graph.shapeOf(spec, width, rows).size()).order(ByteOrder.nativeOrder())
        }

        override fun run(position: Int, lastIndex: Int) {
            beforeRun()
            if (interrupts > resumes) throw EngineException("interrupted", "Nothing to do.")
            val seen = if (recordsCache) cache?.buffers.orEmpty().map { it.floats() } else emptyList()
            val call = FakeCall(graph, List(width) { ids.get(it).toInt() }, position, lastIndex, seen)
            calls.add(call)
            newRows.forEachIndexed { index, rows ->
                for (element in 0 until rows.capacity() / 4) rows.putFloat(4 * element, 1000f * calls.size + 100f * index + element)
            }
            for (index in 0 until logits.capacity()) logits.put(index, -1f)
            val count = logits.capacity() / vocabSize
            // Of all tokens, with padding behind them, or of the last ones.
            val first = if (count == width) 0 else lastIndex - rows + 1
            for (index in first..minOf(lastIndex, first + count - 1)) {
                val chosen = if (index == lastIndex) choose(call) else choose(FakeCall(graph, call.ids, position, index, seen))
                logits.put((index - first) * vocabSize + chosen, 5f)
            }
            afterRun(logits)
        }

        override fun close() {
            closedSteps++
        }
    }
}

/** How many numbers a tensor of this shape has. */
fun LongArray.size(): Int = fold(1L) { all, dimension -> all * dimension }.toInt()

fun ByteBuffer.floats(): List<Int> = List(capacity() / 4) { getFloat(4 * it).toInt() }

/** Counts what is allocated, and takes back only what it gave, once. */
class CountingAllocator : BufferAllocator {
    private val given = IdentityHashMap<ByteBuffer, Unit>()
    var count = 0

    /** Bytes of the buffers that were not given back. */
    var bytes = 0L

    override fun allocate(bytes: Int): ByteBuffer {
        count++
        this.bytes += bytes
        return BufferAllocator.Direct.allocate(bytes).also { given[it] = Unit }
    }

    override fun release(buffer: ByteBuffer) {
        checkNotNull(given.remove(buffer)) { "given back twice, or never given" }
        bytes -= buffer.capacity()
    }
}

/**
 * A manifest for [FakeEngine]: 2 layers, 2 heads, 3 dimensions, chunks of [widths].
 *
 * @param buckets Slots of the shorter caches of decode graphs.
 * @param prefillBuckets Those of prefill graphs, which stand before the ones with the full cache.
 * @param freeRows Whether the graph of phase `any` returns the logits of as many tokens as it is asked for.
 */
fun fakeManifest(
    update: CacheUpdate = CacheUpdate.APPEND,
    batched: Boolean = false,
    buckets: List<Int> = emptyList(),
    dynamic: Boolean = false,
    allLogits: Boolean = false,
    golden: GoldenTrace? = null,
    eos: Set<Int> = setOf(2),
    widths: List<Int> = listOf(4),
    slots: Int = 16,
    freeRows: Boolean = false,
    vocabSize: Int = 50,
    prefillBuckets: List<Int> = emptyList(),
): Manifest {
    val cache = CacheSpec(update, 2, 2, slots, 3, batched, Dtype.FLOAT32)
    val graphs = when {
        dynamic -> listOf(fakeGraph(Phase.ANY, null, cache, allLogits, vocabSize, freeRows))
        else -> (prefillBuckets + slots).flatMap { length ->
            widths.filter { it <= length }.map { fakeGraph(Phase.PREFILL, it, cache.copy(slots = length), allLogits, vocabSize, full = slots) }
        } + (buckets + slots).map { fakeGraph(Phase.DECODE, 1, cache.copy(slots = it), allLogits, vocabSize) }
    }
    return Manifest(
        schemaVersion = "1.0", name = "fake", runtime = "onnxruntime", target = "onnx", vocabSize = vocabSize,
        tokens = Tokens(1, eos, 3, addBos = true), tokenizerFile = "tokenizer.json", tokenizerKind = "unigram",
        graphs = graphs, cache = cache, allLogits = allLogits, prefillLen = widths.last(), cacheLen = slots,
        generation = GenerationDefaults(false, 1.0, 0, 1.0, 8), memory = MemorySpec(1000, 400, 1536, 100, 2036),
        golden = golden, output = null, files = emptyList(),
    )
}

private fun fakeGraph(phase: Phase, tokens: Int?, cache: CacheSpec, allLogits: Boolean, vocabSize: Int, freeRows: Boolean = false, full: Int = cache.slots): GraphSpec {
    val width = tokens?.toLong() ?: -1L
    val inputs = ArrayList<TensorSpec>()
    inputs.add(TensorSpec("input_ids", Role.TOKENS, Dtype.INT64, listOf(1, width)))
    inputs.add(TensorSpec("past_length", Role.PAST_LENGTH, Dtype.INT64, listOf(1)))
    if (phase != Phase.DECODE && !allLogits) inputs.add(TensorSpec("last_index", Role.LAST_INDEX, Dtype.INT64, listOf(1)))
    val outputs = arrayListOf(TensorSpec("logits", Role.LOGITS, Dtype.FLOAT32, listOf(1, if (allLogits) width else 1, vocabSize.toLong())))
    for (layer in 0 until cache.layers) {
        for ((kind, past, new) in listOf(Triple("key", Role.PAST_KEY, Role.NEW_KEY), Triple("value", Role.PAST_VALUE, Role.NEW_VALUE))) {
            inputs.add(TensorSpec("past_key_values.$layer.$kind", past, cache.dtype, cache.shape.toList()))
            if (cache.update == CacheUpdate.APPEND) {
                outputs.add(TensorSpec("new_key_values.$layer.$kind", new, cache.dtype, listOf(cache.kvHeads.toLong(), width, cache.headDim.toLong())))
            }
        }
    }
    val sizes = if (phase != Phase.PREFILL) "${cache.slots}" else if (cache.slots == full) "$tokens" else "${tokens}_${cache.slots}"
    val method = "${phase.id}_$sizes"
    return GraphSpec("decoder.pte", method, phase, tokens, cache.slots, inputs, outputs, freeRows, plannedOutputs = true)
}
