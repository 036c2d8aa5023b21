package dev.heliumedge.core

import java.nio.ByteBuffer
import java.nio.FloatBuffer
import java.util.Random
import java.util.TreeMap

/** One row of logits, valid until the decoder that gave it runs its next call: V floats from [offset] on. */
public class Logits internal constructor(public val buffer: FloatBuffer, public val offset: Int) {
    /** Reads the first of the row, as many as [into] takes. */
    internal fun read(into: FloatArray): Unit = buffer.read(offset, into)
}

/**
 * Reads floats from [offset] on in one call, many times as fast as one by one, and makes no view of the buffer for it. The
 * position is the buffer's own again afterwards; one thread at a time.
 */
internal fun FloatBuffer.read(offset: Int, into: FloatArray) {
    val before = position()
    position(offset)
    get(into)
    position(before)
}

/**
 * Runs the decoder graphs of a bundle over a KV cache of its own: the loop of docs/bundle.md.
 *
 * Steps that recur are bound at the first use and kept, so that a token costs no allocation of tensors or buffers.
 * One thread at a time. Closing it closes the engine.
 *
 * @param static Use the pair of static graphs even where one graph serves both phases. The pair packs its weights
 *   twice in ONNX Runtime.
 */
public class Decoder(
    private val manifest: Manifest,
    private val engine: GraphEngine,
    allocator: BufferAllocator = BufferAllocator.Direct,
    static: Boolean = false,
) : AutoCloseable {
    private val anyGraph = if (static) null else manifest.graph(Phase.ANY)
    private val cache: KvCache

    /** Type and shape of the cache. */
    internal val cacheSpec: CacheSpec
    private val planner: PrefillPlanner
    private val steps = ArrayList<Step>()

    /** By the slots of their caches, as the graphs of each number of tokens in [prefillGraphs] are. */
    private val decodeGraphs: TreeMap<Int, GraphSpec>
    private val prefillGraphs: Map<Int, TreeMap<Int, GraphSpec>>

    init {
        val spec = manifest.cache ?: throw InvalidRequestException(
            "${manifest.name} classifies text and continues none",
            "Use the classify screen, or choose a bundle of a text model.",
        )
        decodeGraphs = byCache(manifest.graphs.filter { it.phase == Phase.DECODE }, spec.slots)
        val prefills = manifest.graphs.filter { it.phase == Phase.PREFILL && it.tokens != null }
        prefillGraphs = prefills.groupBy { it.tokens!! }.mapValues { byCache(it.value, spec.slots) }
        if (anyGraph == null && prefillGraphs.isEmpty()) throw missing("prefill")
        if (anyGraph == null && spec.slots !in decodeGraphs) throw missing("decode graph for ${spec.slots} slots")
        // A width is chosen before a cache: without the full one it may find none with room.
        val lacking = if (anyGraph == null) prefillGraphs.keys.firstOrNull { spec.slots !in prefillGraphs.getValue(it) } else null
        if (lacking != null) throw missing("prefill graph of $lacking tokens for ${spec.slots} slots")
        cacheSpec = spec
        cache = KvCache(spec, allocator)
        val widths = if (anyGraph == null) prefillGraphs.keys else listOf(manifest.prefillLen)
        planner = PrefillPlanner(widths, spec.slots, dynamic = anyGraph != null)
    }

    /** Ids of the cache from its first slot on; fewer than there are where somebody moved the position by [seek]. */
    internal val tokens = TokenLog()

    /** Gets which call of how many a prefill begins, in the thread that runs it: a long prompt takes seconds. */
    public var onChunk: ((chunk: Int, chunks: Int) -> Unit)? = null

    /** Tokens in the cache, which is the position of the next one. */
    public val position: Int get() = cache.position

    /** Ids of the tokens in the cache, a copy. */
    public fun cachedTokens(): IntArray = tokens.toArray()

    /** Tokens that fit. */
    public val cacheLen: Int get() = cache.slots

    /** Tokens in the vocabulary. */
    public val vocabSize: Int get() = manifest.vocabSize

    /** Whether one call can return the logits of several tokens, as [decodeRows] wants; not with static graphs. */
    public val givesRows: Boolean get() = anyGraph != null && (manifest.allLogits || anyGraph.freeRows)

    /**
     * Loads every graph that a text may need and runs one step, which otherwise happens at their first use: what loading
     * and the pages of the cache take, in time and in memory, they take here. What the cache holds stays, and so does the
     * position. Not run is a prefill, whose activations, some megabytes, come with the first prompt.
     *
     * @param stop Ends it between graphs, and inside a step where the runtime can.
     * @return Whether all was done, and not stopped.
     * @throws EngineException One of them cannot be loaded, or the runtime stopped.
     */
    public fun warmUp(stop: StopSignal? = null): Boolean {
        val graphs = if (anyGraph != null) listOf(anyGraph) else (prefillGraphs.values + listOf(decodeGraphs)).flatMap { it.values }
        for (graph in graphs) {
            if (stop?.isRequested == true) return false
            engine.load(graph)
        }
        return runOnce(stop) && stop?.isRequested != true
    }

    /** Runs steps behind the last token and takes them back; their slots are written anew before anything reads them. */
    private fun runOnce(stop: StopSignal?): Boolean {
        val before = position
        // Without room every page of the cache was written already.
        if (before == cacheLen) return true
        val token = manifest.tokens.bos ?: 0
        try {
            // Attention that is not in place reads every slot. The full cache comes first: a step over it drops the shorter
            // one, with which the first text begins and which is therefore to be there in the end.
            if (anyGraph == null && slotsFor(decodeGraphs, 1) < cacheLen) {
                unlessStopped(stop) { runStep(step(decodeGraphs.getValue(cacheLen), 1, cache.buffersOf(cacheLen)), token) } ?: return false
                rewind(before)
            }
            return unlessStopped(stop) { runStep(decodeStep(), token) } != null
        } finally {
            rewind(before)
        }
    }

    /** Starts a new conversation, or goes back to an earlier position; the buffers stay. */
    public fun rewind(to: Int = 0) {
        cache.rewind(to)
        tokens.truncate(minOf(to, tokens.size))
    }

    /**
     * Goes back to where the cache and [ids] part. At least the last one is left to be run, because its logits are
     * wanted.
     *
     * @return How many of [ids] the cache holds then; the others have yet to be run.
     */
    public fun follow(ids: IntArray): Int {
        val shared = tokens.commonPrefix(ids, ids.size - 1)
        rewind(shared)
        return shared
    }

    /** Takes the first [to] slots for tokens, whatever they hold, to measure speed at that depth. */
    internal fun seek(to: Int) {
        cache.seek(to)
        tokens.truncate(minOf(to, tokens.size))
    }

    /** Fills every slot of the cache, for the same purpose. */
    internal fun fillCache() {
        cache.full.fill(Random(0))
        tokens.truncate(0)
    }

    /** The first [count] rows of each head of a buffer: of key and value of each layer in turn. */
    internal fun cachedRows(index: Int, count: Int): List<ByteBuffer> = cache.full.firstRows(index, count)

    /**
     * Takes [ids] for what the cache holds, after [fill] wrote the rows of every tensor; should that fail, it is empty.
     */
    internal fun restore(ids: IntArray, fill: (String, List<ByteBuffer>) -> Unit) {
        // Also tells shorter caches that what they copied is of the past.
        rewind()
        tensorNames(cacheSpec.layers).forEachIndexed { index, name -> fill(name, cachedRows(index, ids.size)) }
        seek(ids.size)
        tokens.addAll(ids)
    }

    /**
     * Appends tokens in chunks.
     *
     * @return The logits of the last one, or null when [stop] ended it between or inside chunks; what was appended
     *   until then stays.
     * @throws CacheFullException They do not fit; nothing was written.
     * @throws InvalidRequestException No tokens, or an id outside the vocabulary.
     * @throws EngineException The runtime stopped.
     */
    public fun prefill(ids: IntArray, stop: StopSignal? = null): Logits? {
        ids.forEach(::checkId)
        var logits: Logits? = null
        val chunks = planner.plan(position, ids.size)
        chunks.forEachIndexed { index, chunk ->
            onChunk?.invoke(index + 1, chunks.size)
            logits = unlessStopped(stop) { run(chunk, ids) } ?: return null
        }
        return logits
    }

    /**
     * Appends one token.
     *
     * @return Its logits, or null when [stop] ended it; the cache is then as it was.
     * @throws CacheFullException The cache is full; it stays as it was.
     * @throws InvalidRequestException An id outside the vocabulary.
     * @throws EngineException The runtime stopped.
     */
    public fun decode(token: Int, stop: StopSignal? = null): Logits? {
        checkId(token)
        if (position >= cacheLen) throw CacheFullException(Phrase.TOKENS_DO_NOT_FIT.with(1, cacheLen, position))
        return unlessStopped(stop) {
            runStep(decodeStep(), token).also { if (tokens.size == position - 1) tokens.add(token) }
        }
    }

    private fun runStep(step: Step, token: Int): Logits {
        step.bound.ids.put(0, token.toLong())
        return finish(step, 1)
    }

    /**
     * Appends a few tokens in one call, which while decoding waits for memory takes little longer than one of [decode];
     * [rewind] takes back those that turn out to be unwanted. Each number of tokens is bound at its first use and kept,
     * with its buffer for as many rows of logits.
     *
     * @param ids The tokens, and whatever stands behind them.
     * @param count How many tokens there are, 1 to [MOST_ROWS].
     * @return The logits of each, or null when [stop] ended it; the cache is then as it was.
     * @throws CacheFullException They do not fit; nothing was written.
     * @throws InvalidRequestException The graphs return the logits of one token alone ([givesRows]), so many tokens are
     *   not allowed, or an id is outside the vocabulary.
     * @throws EngineException The runtime stopped.
     */
    public fun decodeRows(ids: IntArray, count: Int = ids.size, stop: StopSignal? = null): List<Logits>? {
        val any = requireRows()
        if (count !in 1..MOST_ROWS || count > ids.size) {
            throw InvalidRequestException("$count tokens in one call is out of range", "Allowed: 1 to ${minOf(MOST_ROWS, ids.size)}.")
        }
        for (index in 0 until count) checkId(ids[index])
        if (position + count > cacheLen) throw CacheFullException(Phrase.TOKENS_DO_NOT_FIT.with(count, cacheLen, position))
        return unlessStopped(stop) {
            val step = step(any, count, cache.full, rows = if (any.freeRows) count else 1)
            for (index in 0 until count) step.bound.ids.put(index, ids[index].toLong())
            finish(step, count)
            log(ids, 0, count)
            step.logits
        }
    }

    /** Takes the next slot for [token] again: a call wrote it there, and [rewind] took it back. */
    internal fun retake(token: Int) {
        cache.seek(position + 1)
        if (tokens.size == position - 1) tokens.add(token)
    }

    /** The graph that returns the logits of several tokens, or a refusal. */
    internal fun requireRows(): GraphSpec = anyGraph?.takeIf { givesRows } ?: throw InvalidRequestException(
        "the graphs of ${manifest.name} return the logits of the last token of a call alone, so that no tokens can be guessed",
        "Leave lookahead at 0, or export for ONNX Runtime with a current helium-edge.",
    )

    override fun close() {
        try {
            steps.forEach { it.bound.close() }
            steps.clear()
            engine.close()
        } finally {
            cache.close()
        }
    }

    private inline fun <T> unlessStopped(stop: StopSignal?, call: () -> T): T? = engine.unlessStopped(stop, call)

    private fun run(chunk: Chunk, ids: IntArray): Logits {
        val any = anyGraph
        val kept = any == null || chunk.width == 1 || chunk.width == manifest.prefillLen
        val step = when {
            chunk.phase == Phase.DECODE -> decodeStep()
            any == null -> prefillStep(chunk.width)
            kept -> step(any, chunk.width, cache.full)
            else -> bind(any, chunk.width, cache.full, rows = 1)
        }
        try {
            for (index in 0 until chunk.width) {
                // Any valid id will do for the padding: attention is causal.
                step.bound.ids.put(index, ids[chunk.start + minOf(index, chunk.count - 1)].toLong())
            }
            val logits = finish(step, chunk.count)
            log(ids, chunk.start, chunk.count)
            return if (kept) logits else Logits(copy(logits), 0)
        } finally {
            // A ragged tail has one of many widths: only those that recur are worth keeping.
            if (!kept) step.bound.close()
        }
    }

    /** Notes the tokens of the last call, unless what lies before them is not known. */
    private fun log(ids: IntArray, start: Int, count: Int) {
        if (tokens.size == position - count) for (index in start until start + count) tokens.add(ids[index])
    }

    private fun decodeStep(): Step {
        val any = anyGraph
        if (any != null) return step(any, 1, cache.full)
        val slots = slotsFor(decodeGraphs, 1)
        return step(decodeGraphs.getValue(slots), 1, cache.buffersOf(slots))
    }

    private fun prefillStep(width: Int): Step {
        val graphs = prefillGraphs.getValue(width)
        val slots = slotsFor(graphs, width)
        // The full one is there anyway, and the step behind it may find its shorter cache as it left it.
        val buffers = if (slots == cacheLen) cache.full else cache.buffersOf(slots)
        return step(graphs.getValue(slots), width, buffers)
    }

    /** Slots of the shortest cache that has room for a call of [width] tokens, its padding among them. */
    private fun slotsFor(graphs: TreeMap<Int, GraphSpec>, width: Int): Int = graphs.ceilingKey(position + width)

    /** Runs [count] tokens, and returns the logits of the last one. */
    private fun finish(step: Step, count: Int): Logits {
        step.bound.run(position, count - 1)
        cache.advance(step.bound.newRows, step.bound.width, count)
        return step.logits[if (manifest.allLogits) count - 1 else step.logits.lastIndex]
    }

    private fun copy(row: Logits): FloatBuffer {
        val copy = FloatArray(vocabSize)
        row.read(copy)
        return FloatBuffer.wrap(copy)
    }

    /** The step that was bound before, or a new one. */
    private fun step(graph: GraphSpec, width: Int, buffers: KvBuffers, rows: Int = 1): Step {
        // Those over a shorter cache that is gone would keep its memory from being collected.
        var last = steps.size
        while (--last >= 0) if (steps[last].buffers.isReleased) steps.removeAt(last).bound.close()
        for (index in steps.indices) {
            val kept = steps[index]
            if (kept.graph === graph && kept.bound.width == width && kept.rows == rows && kept.buffers === buffers) return kept
        }
        return bind(graph, width, buffers, rows).also(steps::add)
    }

    private fun bind(graph: GraphSpec, width: Int, buffers: KvBuffers, rows: Int) =
        Step(graph, buffers, rows, engine.bind(graph, width, buffers, rows))

    private fun checkId(token: Int) {
        // An added token that the model has no row for has an id behind the vocabulary; only a text that spells it gives one.
        if (token !in 0 until vocabSize) throw InvalidRequestException(Phrase.UNKNOWN_TOKEN.with(token, vocabSize), Phrase.TAKE_OUT.with())
    }

    private fun missing(what: String) = ManifestException("${manifest.name} has no $what; it has ${manifest.graphs.map { it.phase.id }}")

    /** Graphs that differ in their caches alone, in the order of these and not of the manifest. */
    private fun byCache(graphs: List<GraphSpec>, slots: Int) = graphs.associateByTo(TreeMap<Int, GraphSpec>()) { it.cacheLen ?: slots }

    private inner class Step(val graph: GraphSpec, val buffers: KvBuffers, val rows: Int, val bound: BoundStep) {
        /** One for each row that a call returns, made once. */
        val logits = List(if (manifest.allLogits) bound.width else rows) { Logits(bound.logits, it * vocabSize) }
    }

    public companion object {
        /** Most tokens of [decodeRows]: the longest guess of [Lookahead] and the token before it. */
        public const val MOST_ROWS: Int = Lookahead.MOST_GUESSED + 1
    }
}
