package dev.heliumedge.core

import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.LongBuffer

/**
 * A runtime whose logits are a function of the whole text: rows of its cache are the ids themselves, and it reads the
 * text from there, so that a wrong slot, position or row of logits gives another text.
 *
 * @param model The logits behind a text, as many as the vocabulary has.
 */
class TextEngine(private val model: (List<Int>) -> FloatArray) : GraphEngine {
    /** Real tokens of each call. */
    val widths = ArrayList<Int>()

    /** The graph of each call, and where it began. */
    val calls = ArrayList<Pair<GraphSpec, Int>>()
    var bound = 0
    var interrupts = 0
    var resumes = 0
    var beforeRun: (width: Int) -> Unit = {}

    override val name = "text"

    override fun load(graph: GraphSpec) = Unit

    override fun bind(graph: GraphSpec, width: Int, cache: KvBuffers?, rows: Int): BoundStep {
        graph.checkRows(width, rows)
        bound++
        check((graph.cacheLen ?: cache!!.slots) == cache!!.slots) { "${graph.label} over ${cache.slots} slots" }
        return Step(graph, width, rows, cache)
    }

    override fun interrupt() {
        interrupts++
    }

    override fun resume() {
        resumes++
    }

    override fun close() = Unit

    private inner class Step(private val graph: GraphSpec, override val width: Int, private val rows: Int, private val cache: KvBuffers) : BoundStep {
        override val ids: LongBuffer = LongBuffer.allocate(width)
        override val logits: FloatBuffer = FloatBuffer.allocate(graph.output(Role.LOGITS)!!.let { graph.shapeOf(it, width, rows) }.size())
        override val newRows: List<ByteBuffer> = graph.outputs.filter { it.role == Role.NEW_KEY || it.role == Role.NEW_VALUE }
            .map { ByteBuffer.allocate(4 * graph.shapeOf(it, width, rows).size()).order(ByteOrder.nativeOrder()) }
        private val shape = cache.shape.takeLast(3).map { it.toInt() }
        private val returnsAll = graph.input(Role.LAST_INDEX) == null

        override fun run(position: Int, lastIndex: Int) {
            beforeRun(width)
            if (interrupts > resumes) throw EngineException("interrupted", "Nothing to do.")
            check(position + width <= cache.slots) { "$width tokens at $position in ${cache.slots} slots" }
            widths.add(lastIndex + 1)
            calls.add(graph to position)
            val before = List(position) { slot -> text(slot) }
            val new = List(width) { ids.get(it).toInt() }
            if (newRows.isEmpty()) cache.buffers.forEach { write(it, shape[1], position, new.take(lastIndex + 1)) } else newRows.forEach { write(it, width, 0, new) }
            val first = if (returnsAll) 0 else lastIndex - rows + 1
            for (index in first..lastIndex) {
                model(before + new.take(index + 1)).forEachIndexed { id, logit -> logits.put((index - first) * (logits.capacity() / count()) + id, logit) }
            }
        }

        private fun count() = if (returnsAll) width else rows

        /** The id in a slot, which all layers and heads must agree on. */
        private fun text(slot: Int): Int {
            val (heads, slots, dimensions) = shape
            val id = cache.buffers[0].getFloat(4 * slot * dimensions)
            for (buffer in cache.buffers) {
                for (head in 0 until heads) {
                    for (element in 0 until dimensions) {
                        val found = buffer.getFloat(4 * ((head * slots + slot) * dimensions + element))
                        check(found == id) { "slot $slot holds $id and $found" }
                    }
                }
            }
            return id.toInt()
        }

        private fun write(target: ByteBuffer, slots: Int, position: Int, new: List<Int>) {
            val (heads, _, dimensions) = shape
            for (head in 0 until heads) {
                for ((index, id) in new.withIndex()) {
                    for (element in 0 until dimensions) target.putFloat(4 * ((head * slots + position + index) * dimensions + element), id.toFloat())
                }
            }
        }

        override fun close() = Unit
    }
}
