package dev.heliumedge.core

import java.io.File
import java.io.IOException

private const val MOST_SAMPLES = 10_000
private val ID = Regex("[a-z0-9-]{1,40}")

/**
 * What `helium-edge bench --adb` asks for, in extras of an intent.
 *
 * @property contexts Tokens that are in the cache before a sample.
 * @property prompts Lengths of the prompts; each is run at every depth where it fits.
 * @property repeats Samples of each case.
 * @property warmup Rounds before these, which do not count.
 * @property steps Decode steps of a sample.
 * @property threads Threads within an operator; 0 takes those of the settings.
 */
public data class BenchmarkRequest(
    val contexts: List<Int>,
    val prompts: List<Int>,
    val repeats: Int,
    val warmup: Int,
    val steps: Int,
    val threads: Int = 0,
) {
    public companion object {
        /**
         * @param extra The text of an extra; null where it is missing.
         * @throws InvalidRequestException An extra is missing or no number.
         */
        public fun parse(extra: (String) -> String?): BenchmarkRequest {
            fun numbers(name: String): List<Int> {
                val text = extra(name) ?: throw bad(name, "missing")
                if (text.isEmpty()) return emptyList()
                return text.split(',').map { it.toIntOrNull()?.takeIf { n -> n >= 0 } ?: throw bad(name, text) }
            }
            fun number(name: String, least: Int): Int = numbers(name).singleOrNull()?.takeIf { it >= least } ?: throw bad(name, extra(name))
            val request = BenchmarkRequest(
                numbers("contexts"), numbers("prompts"), number("repeats", 1), number("warmup", 0), number("steps", 1), number("threads", 0),
            )
            if ((request.warmup.toLong() + request.repeats) * request.steps > MOST_SAMPLES) throw bad("repeats", extra("repeats"))
            return request
        }

        private fun bad(name: String, text: String?) =
            InvalidRequestException("the extra $name of the benchmark is $text", "Use `helium-edge bench BUNDLE --adb`, of the version of this app.")
    }
}

/** Times of one case: [tokens] decode steps, a prompt or a text of [tokens] tokens, with [context] tokens before it. */
public class CaseTimes internal constructor(public val phase: String, public val context: Int, public val tokens: Int) {
    private val nanos = ArrayList<Long>()

    /** Nanoseconds of each sample: of all its steps, of the prompt, or of the text. */
    public val samples: List<Long> get() = nanos

    internal fun add(value: Long) {
        nanos.add(value)
    }
}

/**
 * Measures a loaded bundle as the Python host does (`helium_edge/bench`): the same cases, the same order, the same
 * ids, and a cache that is filled and said to hold tokens.
 */
public class RemoteBenchmark(private val clock: Clock = Clock.System, private val residentBytes: () -> Long = { 0 }) {
    /**
     * @param facts Of the device; `threads` among them becomes those that [loaded] runs with.
     * @param progress Called with the rounds that are done, those to warm up among them.
     * @return The document for the host, or null when [stop] ended it.
     * @throws HeliumException What the bundle's calls throw, or a case that does not fit.
     */
    public fun run(
        loaded: LoadedBundle,
        request: BenchmarkRequest,
        facts: Map<String, Any?>,
        stop: StopSignal = StopSignal(),
        progress: (Int) -> Unit = {},
    ): String? {
        val decoder = loaded.decoder
        val first = clock.nanos()
        if (decoder == null) text(loaded) else decoder.prefill(ids(decoder.vocabSize, minOf(loaded.manifest.prefillLen, decoder.cacheLen)), stop) ?: return null
        val firstNanos = clock.nanos() - first
        val ready = residentBytes()
        decoder?.fillCache()
        val cases = cases(loaded, request)
        val row = FloatArray(loaded.manifest.vocabSize)
        for (round in 0 until request.warmup + request.repeats) {
            for (case in cases) {
                val nanos = (if (decoder == null) text(loaded) else sample(decoder, case, row, stop)) ?: return null
                if (round >= request.warmup) case.add(nanos)
            }
            progress(round)
        }
        decoder?.rewind()
        val memory = mapOf("ready" to ready, "full" to residentBytes())
        return document(loaded, facts, firstNanos, memory, cases)
    }

    private fun cases(loaded: LoadedBundle, request: BenchmarkRequest): List<CaseTimes> {
        val decoder = loaded.decoder ?: return listOf(CaseTimes("classify", 0, loaded.classifier!!.width))
        val slots = decoder.cacheLen
        request.contexts.firstOrNull { it + request.steps > slots }?.let {
            throw InvalidRequestException("a benchmark of ${request.steps} steps at context $it does not fit the cache of $slots slots", "Ask for less.")
        }
        val decode = request.contexts.map { CaseTimes("decode", it, request.steps) }
        return decode + request.prompts.flatMap { length ->
            request.contexts.filter { it + length <= slots }.map { CaseTimes("prefill", it, length) }
        }
    }

    private fun sample(decoder: Decoder, case: CaseTimes, row: FloatArray, stop: StopSignal): Long? {
        val ids = ids(decoder.vocabSize, case.tokens)
        decoder.seek(case.context)
        if (case.phase == "prefill") {
            val start = clock.nanos()
            val logits = decoder.prefill(ids, stop) ?: return null
            val likeliest = likeliest(logits, row)
            val nanos = clock.nanos() - start
            check(likeliest, case)
            return nanos
        }
        // Wakes the threads, and takes the cache to a graph that has one of its own.
        decoder.decode(ids[0], stop) ?: return null
        decoder.seek(case.context)
        val start = clock.nanos()
        var last: Logits? = null
        for (id in ids) last = decoder.decode(id, stop) ?: return null
        val nanos = clock.nanos() - start
        check(likeliest(last!!, row), case)
        return nanos
    }

    private fun text(loaded: LoadedBundle): Long {
        val classifier = loaded.classifier!!
        val ids = ids(loaded.manifest.vocabSize, classifier.width)
        val start = clock.nanos()
        classifier.classify(ids)
        return clock.nanos() - start
    }

    /** The id with the largest logit, as a sampler reads it; -1 where one is not finite. */
    private fun likeliest(logits: Logits, row: FloatArray): Int {
        logits.read(row)
        return if (row.all { it.isFinite() }) largest(row) else -1
    }

    private fun check(likeliest: Int, case: CaseTimes) {
        if (likeliest < 0) throw BadLogitsException("the logits at context ${case.context} are not finite")
    }

    private fun document(loaded: LoadedBundle, facts: Map<String, Any?>, firstNanos: Long, memory: Map<String, Long>, cases: List<CaseTimes>): String =
        JsonWriter().obj {
            field("schema", SCHEMA)
            field("bundle", loaded.manifest.name)
            field("engine", loaded.engineName)
            obj("device") { loaded.withThreads(facts).forEach { (key, value) -> field(key, value) } }
            field("load_ns", loaded.loadNanos)
            field("first_ns", firstNanos)
            obj("resident_bytes") { memory.forEach { (key, value) -> field(key, value) } }
            array("results") {
                for (case in cases) {
                    obj {
                        field("phase", case.phase)
                        field("context", case.context)
                        field("tokens", case.tokens)
                        array("ns") { case.samples.forEach { field(null, it) } }
                    }
                }
            }
        }.toString()

    public companion object {
        /** Name of the document; the host refuses another. */
        public const val SCHEMA: String = "helium-edge/phone-bench-1"

        /** Whether a text may name a document: it becomes the name of a file. */
        public fun isId(text: String): Boolean = ID.matches(text)

        /** What the host reads when it failed. */
        public fun failure(error: HeliumException): String = JsonWriter().obj {
            field("schema", SCHEMA)
            obj("error") {
                field("message", error.what)
                field("hint", error.fix)
            }
        }.toString()

        /**
         * Writes a document where the host looks for it, whole or not at all.
         *
         * @throws StorageException It cannot be written.
         */
        public fun publish(document: String, folder: File, id: String) {
            require(isId(id)) { "the caller checks the id" }
            try {
                folder.mkdirs()
                folder.listFiles()?.forEach { it.delete() }
                val part = File(folder, "$id.part")
                part.writeText(document)
                if (!part.renameTo(File(folder, "$id.json"))) throw IOException("cannot rename")
            } catch (error: IOException) {
                throw StorageException("$folder: ${error.message}", error)
            }
        }

        /** The ids that the Python host takes: all over the vocabulary, without the special ones at its beginning. */
        internal fun ids(vocabSize: Int, count: Int): IntArray {
            val first = minOf(4, vocabSize - 1)
            return IntArray(count) { first + (it * 7919L % (vocabSize - first)).toInt() }
        }
    }
}
