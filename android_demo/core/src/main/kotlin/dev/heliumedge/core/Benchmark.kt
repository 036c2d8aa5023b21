package dev.heliumedge.core

import kotlin.math.sqrt

/** What is measured: prefill of [prefillTokens], then [decodeTokens] steps, [repeats] times after one to warm up. */
public data class BenchmarkPlan(val prefillTokens: Int, val decodeTokens: Int, val repeats: Int) {
    public companion object {
        /** The usual 512 and 128 of llama-bench, as far as the cache has room. */
        public fun fitting(cacheLen: Int, repeats: Int = 3): BenchmarkPlan {
            val decode = minOf(128, maxOf(1, cacheLen / 4))
            return BenchmarkPlan(minOf(512, cacheLen - decode), decode, repeats)
        }
    }
}

/** Figures of one quantity over the repeats. */
public class Series(private val values: DoubleArray) {
    public val mean: Double get() = values.average()
    public val min: Double get() = values.minOrNull() ?: 0.0
    public val max: Double get() = values.maxOrNull() ?: 0.0

    /** Sample standard deviation; 0 for one value. */
    public val deviation: Double
        get() = if (values.size < 2) 0.0 else sqrt(values.sumOf { (it - mean) * (it - mean) } / (values.size - 1))

    internal fun write(json: JsonWriter, name: String) {
        json.obj(name) {
            field("mean", mean)
            field("deviation", deviation)
            field("min", min)
            field("max", max)
            array("values") { values.forEach { field(null, it) } }
        }
    }
}

/** What a benchmark found, in tokens per second. */
public class BenchmarkReport(
    public val plan: BenchmarkPlan,
    public val prefill: Series,
    public val decode: Series,
) {
    /** A document to copy about [loaded]: the facts of the device come from the caller, the threads from what is loaded. */
    public fun toJson(loaded: LoadedBundle, facts: Map<String, Any?>): String = toJson(loaded.manifest, loaded.engineName, loaded.withThreads(facts))

    /** The same for a decoder that no [BundleLoader] made: all facts come from the caller. */
    public fun toJson(manifest: Manifest, engine: String, facts: Map<String, Any?>): String = JsonWriter().obj {
        field("bundle", manifest.name)
        field("engine", engine)
        facts.forEach { (key, value) -> field(key, value) }
        field("prefill_tokens", plan.prefillTokens)
        field("decode_tokens", plan.decodeTokens)
        prefill.write(this, "prefill_tokens_per_second")
        decode.write(this, "decode_tokens_per_second")
    }.toString()
}

/** Measures a decoder with fixed token ids, so that no tokenizer and no sampler is in the figures. */
public class Benchmark(private val decoder: Decoder, private val clock: Clock = Clock.System) {
    /**
     * Runs a plan; each repeat is a new conversation.
     *
     * @param progress Called with each repeat that is done, the one to warm up being 0.
     * @return Null when [stop] ended it.
     * @throws InvalidRequestException The plan does not fit the cache.
     */
    public fun run(plan: BenchmarkPlan, stop: StopSignal = StopSignal(), progress: (Int) -> Unit = {}): BenchmarkReport? {
        val room = decoder.cacheLen
        if (plan.prefillTokens < 1 || plan.decodeTokens < 1 || plan.repeats < 1 || plan.prefillTokens + plan.decodeTokens > room) {
            throw InvalidRequestException(Phrase.BENCHMARK_TOO_LONG.with(plan.prefillTokens, plan.decodeTokens, room), Phrase.ALLOWED_IN_ALL.with(room))
        }
        val prompt = IntArray(plan.prefillTokens) { 1 + it % (decoder.vocabSize - 1) }
        val prefill = DoubleArray(plan.repeats)
        val decode = DoubleArray(plan.repeats)
        for (repeat in 0..plan.repeats) {
            decoder.rewind()
            val start = clock.nanos()
            decoder.prefill(prompt, stop) ?: return null
            val middle = clock.nanos()
            for (index in 0 until plan.decodeTokens) decoder.decode(prompt[index % prompt.size], stop) ?: return null
            val end = clock.nanos()
            if (repeat > 0) {
                prefill[repeat - 1] = plan.prefillTokens * 1e9 / maxOf(1, middle - start)
                decode[repeat - 1] = plan.decodeTokens * 1e9 / maxOf(1, end - middle)
            }
            progress(repeat)
        }
        decoder.rewind()
        return BenchmarkReport(plan, Series(prefill), Series(decode))
    }
}
