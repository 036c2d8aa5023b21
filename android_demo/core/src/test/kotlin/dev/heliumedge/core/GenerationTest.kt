package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test

class GenerationTest {
    private val tokenizer = Tokenizer.open(Vectors.file("tokenizers/tiny.json"))
    private val shown = ArrayList<Int>()

    private fun generation(engine: FakeEngine, manifest: Manifest = fakeManifest()) =
        Generation(Decoder(manifest, engine), tokenizer, manifest.tokens.eos, clock())

    /** Each look at the clock is a second later. */
    private fun clock(): Clock {
        var now = 0L
        return Clock { now += 1_000_000_000L; now }
    }

    private fun greedy() = Sampler(50, SamplingOptions()) { error("greedy draws nothing") }

    @Test
    fun `the length, an end token and a full cache end a text`() {
        val byLength = generation(FakeEngine(50) { 30 }).run(intArrayOf(1, 9), greedy(), 3) { id, _ -> if (id >= 0) shown.add(id) }
        assertEquals(StopReason.LENGTH, byLength.stopReason)
        assertEquals(listOf(30, 30, 30), shown)
        shown.clear()
        val engine = FakeEngine(50) { if (it.position >= 4) 2 else 31 }
        val byEnd = generation(engine).run(intArrayOf(1, 9), greedy(), 30) { id, _ -> if (id >= 0) shown.add(id) }
        assertEquals(StopReason.EOS, byEnd.stopReason)
        assertEquals(listOf(31, 31, 31), shown)
        val full = generation(FakeEngine(50) { 32 }).run(IntArray(14) { 9 }, greedy(), 30) { _, _ -> }
        assertEquals(StopReason.CACHE_FULL, full.stopReason)
        assertEquals("14 tokens of the prompt, two fed back, one more chosen", 3, full.newTokens)
    }

    @Test
    fun `texts end at strings that begin in the prompt or spell special tokens, as in the reference`() {
        val manifest = BundleFolder.open(Vectors.bundle("in_place")).manifest
        var next = emptyList<Int>().iterator()
        val engine = FakeEngine(manifest.vocabSize) { next.next() }.apply { recordsCache = false }
        val decoder = Decoder(manifest, engine)
        val tokenizer = Tokenizer.open(Vectors.file("bundles/in_place/tokenizer.json"))
        val cases = Vectors.cases("stop-texts.json")
        assertTrue(cases.count { it.flag("found") } > 150)
        for (case in cases) {
            val new = case.ints("new_ids")
            next = new.iterator()
            val text = StringBuilder()
            decoder.rewind()
            // One of the prompt's tokens is in the cache already, as from the turn before.
            val prompt = case.ints("prompt_ids").toIntArray()
            if (prompt.size > 1) decoder.prefill(prompt.copyOf(1)).also { next = new.iterator() }
            val stats = Generation(decoder, tokenizer, emptySet(), stopStrings = case.texts("strings"))
                .run(if (prompt.size > 1) prompt.copyOfRange(1, prompt.size) else prompt, Sampler(manifest.vocabSize, SamplingOptions()) { 0.0 }, new.size) { _, piece -> text.append(piece) }
            assertEquals("$new", listOf(case.text("text"), case.int("taken"), case.flag("found")), listOf(text.toString(), stats.newTokens, stats.stopReason == StopReason.STOP_STRING))
        }
    }

    @Test
    fun `figures are those of the calls`() {
        val stats = generation(FakeEngine(50) { 30 }).run(IntArray(4) { 9 }, greedy(), 4) { _, _ -> }
        assertEquals(4, stats.promptTokens)
        assertEquals(4, stats.newTokens)
        assertEquals(3, stats.decodeSteps)
        assertEquals(1_000_000_000L, stats.prefillNanos)
        assertEquals(2_000_000_000L, stats.firstTokenNanos)
        assertEquals(3_000_000_000L, stats.decodeNanos)
        assertEquals(4.0, stats.prefillTokensPerSecond, 1e-9)
        assertEquals(1.0, stats.decodeTokensPerSecond, 1e-9)
        assertEquals(0.0, GenerationStats().decodeTokensPerSecond, 0.0)
    }

    @Test
    fun `stop from the listener runs no further call`() {
        val engine = FakeEngine(50) { 30 }
        val stop = StopSignal()
        val stats = generation(engine).run(intArrayOf(1), greedy(), 30, stop) { _, _ -> if (stats3()) stop.request() }
        assertEquals(StopReason.STOPPED, stats.stopReason)
        assertEquals(3, stats.newTokens)
        assertEquals("one prefill and two steps", 3, engine.calls.size)
    }

    private var seen = 0

    private fun stats3() = ++seen == 3

    @Test
    fun `stop during a call interrupts it, and the engine runs again`() {
        val stop = StopSignal()
        val engine = FakeEngine(50) { 30 }
        engine.beforeRun = { if (engine.calls.size == 2) stop.request() }
        val decoder = Decoder(fakeManifest(), engine)
        val generation = Generation(decoder, tokenizer, emptySet(), clock())
        val stats = generation.run(IntArray(12) { 9 }, greedy(), 30, stop) { _, _ -> shown.add(0) }
        assertEquals(StopReason.STOPPED, stats.stopReason)
        assertEquals("inside the third chunk", 8, decoder.position)
        assertEquals(0, shown.size)
        assertEquals(listOf(1, 1), listOf(engine.interrupts, engine.resumes))
        stop.request()
        assertEquals("the engine is not touched after the call", 1, engine.interrupts)
        engine.beforeRun = {}
        decoder.rewind()
        assertEquals(StopReason.LENGTH, generation.run(intArrayOf(9), greedy(), 2) { _, _ -> }.stopReason)
    }

    @Test
    fun `stop while a token is chosen shows it no more`() {
        val stop = StopSignal()
        val sampler = Sampler(50, SamplingOptions(temperature = 1.0)) {
            stop.request()
            0.0
        }
        val stats = generation(FakeEngine(50) { 30 }).run(intArrayOf(9), sampler, 5, stop) { _, _ -> }
        assertEquals(StopReason.STOPPED, stats.stopReason)
        assertEquals(0, stats.newTokens)
    }

    @Test
    fun `a stop before the start runs nothing`() {
        val engine = FakeEngine(50)
        val stop = StopSignal().apply { request() }
        assertEquals(StopReason.STOPPED, generation(engine).run(intArrayOf(9), greedy(), 5, stop) { _, _ -> }.stopReason)
        assertEquals(0, engine.calls.size)
    }

    @Test
    fun `another failure of the runtime is not taken for a stop`() {
        val engine = FakeEngine(50)
        engine.beforeRun = { throw EngineException("broken", "Repair the engine.") }
        assertFails<EngineException> { generation(engine).run(intArrayOf(9), greedy(), 5) { _, _ -> } }
    }

    @Test
    fun `bytes that never become a character are shown at the end`() {
        val byte = 4 + 0xE2
        val manifest = fakeManifest().copy(vocabSize = 300)
        val wide = manifest.copy(graphs = manifest.graphs.map { graph -> graph.copy(outputs = graph.outputs.map { if (it.role == Role.LOGITS) it.copy(shape = listOf(1, 1, 300)) else it }) })
        val texts = StringBuilder()
        Generation(Decoder(wide, FakeEngine(300) { byte }), tokenizer, emptySet())
            .run(intArrayOf(1), Sampler(300, SamplingOptions()) { 0.0 }, 2) { _, text -> texts.append(text) }
        assertEquals("\uFFFD\uFFFD", texts.toString())
    }

    @Test
    fun `a benchmark measures what it says`() {
        val decoder = Decoder(fakeManifest(), FakeEngine(50))
        val plan = BenchmarkPlan(8, 4, 2)
        val report = Benchmark(decoder, clock()).run(plan)!!
        assertEquals(8.0, report.prefill.mean, 1e-9)
        assertEquals(4.0, report.decode.mean, 1e-9)
        assertEquals(0.0, report.decode.deviation, 0.0)
        assertEquals(0, decoder.position)
        val json = Json.parse(report.toJson(fakeManifest(), "fake", mapOf("threads" to 4))) as Json.Obj
        assertEquals(setOf("bundle", "engine", "threads", "prefill_tokens", "decode_tokens", "prefill_tokens_per_second", "decode_tokens_per_second"), json.fields.keys)
        val tooLong = assertFails<InvalidRequestException> { Benchmark(decoder).run(BenchmarkPlan(13, 4, 1)) }
        assertEquals(Phrase.BENCHMARK_TOO_LONG to listOf<Any>(13, 4, 16), tooLong.said.phrase to tooLong.said.values)
        assertNull(Benchmark(decoder).run(plan, StopSignal().apply { request() }))
        assertTrue(BenchmarkPlan.fitting(16).let { it.prefillTokens + it.decodeTokens <= 16 })
    }
}
