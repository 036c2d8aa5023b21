package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Test
import java.io.File
import java.nio.ByteBuffer
import java.util.Random

private const val VOCAB = 320

/** The first id of a piece; those before it are bytes. */
private const val BASE = 300

/** Texts with guesses against texts by single steps, over models that are functions of the whole text. */
class LookaheadTest {
    private val tokenizer = Tokenizer.open(Vectors.file("tokenizers/tiny.json"))

    private class Keeping : BufferAllocator {
        val buffers = ArrayList<ByteBuffer>()

        override fun allocate(bytes: Int) = BufferAllocator.Direct.allocate(bytes).also { buffers.add(it) }
    }

    /** What a text is made with. */
    private class Wish(
        val manifest: Manifest,
        val model: (List<Int>) -> FloatArray,
        val prompt: IntArray,
        val most: Int,
        val options: SamplingOptions = SamplingOptions(),
        val eos: Set<Int> = emptySet(),
        val stopStrings: List<String> = emptyList(),
        val stopAt: Int = 0,
        val stopCall: Int = 0,
        val seed: Long = 0,
    )

    /** What came of it: [same] must not depend on guesses. */
    private class Outcome(val text: String, val stats: GenerationStats, val calls: Int, val same: List<Any?>)

    private fun outcome(wish: Wish, lookahead: Int): Outcome {
        val engine = TextEngine(wish.model)
        val keeping = Keeping()
        val decoder = Decoder(wish.manifest, engine, keeping)
        val shown = ArrayList<Int>()
        val text = StringBuilder()
        val stop = StopSignal()
        val uniforms = SeededUniforms(wish.seed)
        var drawn = 0
        val sampler = Sampler(VOCAB, wish.options) {
            assertEquals("what the sampler sees", wish.prompt.toList() + shown, decoder.cachedTokens().toList())
            // As if it were asked in the middle of a choice.
            if (++drawn == wish.stopCall) stop.request()
            uniforms.next()
        }
        val stats = Generation(decoder, tokenizer, wish.eos, { 0L }, wish.stopStrings, lookahead = lookahead)
            .run(wish.prompt, sampler, wish.most, stop) { id, piece ->
                if (id >= 0) shown.add(id)
                if (shown.size == wish.stopAt) stop.request()
                text.append(piece)
            }
        val cached = decoder.cachedTokens().toList()
        assertEquals(decoder.position, cached.size)
        assertTrue(cached.size >= wish.prompt.size + shown.size - 1)
        val rows = keeping.buffers.take(4).map { buffer -> List(decoder.position) { buffer.getFloat(4 * 3 * it).toInt() } }
        assertEquals("the cache holds the text", setOf((wish.prompt.toList() + shown).take(cached.size)), rows.toSet() + setOf(cached))
        val calls = engine.widths.size
        // The next text goes on behind this one.
        val next = if (decoder.position < decoder.cacheLen) decoder.decode(5)!!.values() else null
        return Outcome(text.toString(), stats, calls, listOf(shown, text.toString(), stats.stopReason, stats.newTokens, stats.decodeSteps, cached, next))
    }

    private fun Logits.values() = List(VOCAB) { buffer.get(offset + it) }

    private fun check(wish: Wish, lookahead: Int): Pair<Outcome, Outcome> {
        val plain = outcome(wish, 0)
        val ahead = outcome(wish, lookahead)
        val where = "${wish.prompt.toList()}, ${wish.most} tokens, lookahead $lookahead, ${wish.options}, stop at ${wish.stopAt}, ${wish.stopStrings}"
        assertEquals(where, plain.same, ahead.same)
        assertEquals(plain.stats.decodeSteps, plain.stats.decodeCalls)
        assertEquals(ahead.stats.decodeSteps, ahead.stats.decodeCalls + ahead.stats.acceptedTokens)
        assertTrue(ahead.stats.acceptedTokens <= ahead.stats.guessedTokens)
        assertEquals(0, plain.stats.guessedTokens)
        return plain to ahead
    }

    private fun manifests(slots: Int) = listOf(
        fakeManifest(dynamic = true, freeRows = true, slots = slots, vocabSize = VOCAB),
        fakeManifest(dynamic = true, freeRows = true, slots = slots, vocabSize = VOCAB, update = CacheUpdate.IN_PLACE),
        fakeManifest(dynamic = true, allLogits = true, slots = slots, vocabSize = VOCAB, widths = listOf(16)),
    )

    /** Six tokens that depend on everything before, and a beat that makes texts repeat themselves, but not quite. */
    private fun noisy(text: List<Int>) = FloatArray(VOCAB) { -50f }.also { logits ->
        val random = Random(text.fold(17L) { hash, id -> 31 * hash + id })
        repeat(3) { random.nextFloat() }
        for (id in BASE until BASE + 6) logits[id] = 2 * random.nextFloat()
        logits[BASE + text.size * 5 % 7 % 6] += 1.6f
    }

    /** Goes on as the text went on so many tokens ago. */
    private fun looping(period: Int) = { text: List<Int> ->
        FloatArray(VOCAB) { -1f }.also { it[if (text.size < period) BASE + text.size % 20 else text[text.size - period]] = 9f }
    }

    @Test
    fun `every text is that of single steps, whatever ends it`() {
        val random = Random(4)
        val reasons = HashMap<StopReason, Int>()
        var accepted = 0
        var rejected = 0
        for (number in 0 until 600) {
            val slots = listOf(24, 64, 200)[number % 3]
            val prompt = IntArray(1 + random.nextInt(minOf(40, slots - 1))) { BASE + random.nextInt(6) }
            val wish = Wish(
                manifests(slots)[number / 3 % 3],
                if (number % 5 == 0) looping(2 + random.nextInt(9)) else ::noisy,
                prompt,
                1 + random.nextInt(60),
                SamplingOptions(
                    temperature = if (number % 2 == 0) 0.0 else 0.7,
                    repetitionPenalty = if (number % 4 < 2) 1.0 else 1.1,
                    noRepeatNgramSize = if (number % 11 == 0) 4 else 0,
                ),
                eos = if (number % 7 == 0) setOf(BASE + 5) else emptySet(),
                stopAt = if (number % 8 == 1) 1 + random.nextInt(20) else 0,
                stopCall = if (number % 16 == 3) 1 + random.nextInt(20) else 0,
                seed = number.toLong(),
            )
            val (_, ahead) = check(wish, 1 + number % 7)
            reasons.merge(ahead.stats.stopReason!!, 1, Int::plus)
            accepted += ahead.stats.acceptedTokens
            rejected += ahead.stats.guessedTokens - ahead.stats.acceptedTokens
        }
        assertTrue("$reasons", StopReason.values().filter { it != StopReason.STOP_STRING }.all { (reasons[it] ?: 0) > 20 })
        assertTrue("$accepted accepted, $rejected not", accepted > 1000 && rejected > 1000)
    }

    @Test
    fun `stop strings end a text at the same place`() {
        val random = Random(5)
        var found = 0
        for (number in 0 until 60) {
            val prompt = IntArray(12) { BASE + random.nextInt(6) }
            val model: (List<Int>) -> FloatArray = if (number % 2 == 0) looping(12) else ::noisy
            val manifest = manifests(200)[number % 3]
            val whole = outcome(Wish(manifest, model, prompt, 60), 0).text
            val start = random.nextInt(whole.length - 4)
            val wish = Wish(manifest, model, prompt, 60, stopStrings = listOf(whole.substring(start, start + 1 + random.nextInt(4))))
            if (check(wish, 7).second.stats.stopReason == StopReason.STOP_STRING) found++
        }
        assertTrue("$found", found > 50)
    }

    @Test
    fun `a text that repeats itself takes few calls, and one that never does takes no more than single steps`() {
        val prompt = IntArray(20) { BASE + it % 20 }
        for (manifest in manifests(200)) {
            val (plain, ahead) = check(Wish(manifest, looping(20), prompt, 100), 7)
            assertTrue("${ahead.stats.acceptedTokens}", ahead.stats.acceptedTokens > 80)
            assertTrue("${ahead.calls}", ahead.calls < 22 && plain.calls > 99)
            val (_, single) = check(Wish(manifest, { text -> FloatArray(VOCAB).also { it[BASE + (text.size * text.size / 7) % 19] = 9f } }, prompt, 10), 7)
            assertEquals(single.stats.decodeSteps, single.stats.decodeCalls + single.stats.acceptedTokens)
        }
    }

    @Test
    fun `a stop in the middle of a call with guesses leaves what single steps leave`() {
        val prompt = IntArray(20) { BASE + it % 20 }
        val engine = TextEngine(looping(20))
        Decoder(manifests(200)[0], engine).use { decoder ->
            val stop = StopSignal()
            engine.beforeRun = { width -> if (width == 8 && engine.widths.size > 8) stop.request() }
            val shown = ArrayList<Int>()
            val stats = Generation(decoder, tokenizer, emptySet(), { 0L }, lookahead = 7)
                .run(prompt, Sampler(VOCAB, SamplingOptions()) { 0.0 }, 100, stop) { id, _ -> shown.add(id) }
            assertEquals(StopReason.STOPPED, stats.stopReason)
            assertTrue("${shown.size}", shown.size in 10..99)
            assertEquals("the last one was not fed back", prompt.toList() + shown.dropLast(1), decoder.cachedTokens().toList())
            assertEquals(listOf(1, 1), listOf(engine.interrupts, engine.resumes))
        }
    }

    @Test
    fun `a token binds and allocates nothing once every width was there`() {
        for (manifest in manifests(64)) {
            val engine = TextEngine(::noisy)
            val allocator = CountingAllocator()
            val decoder = Decoder(manifest, engine, allocator)
            val ids = IntArray(8) { BASE + it % 20 }
            for (count in 1..8) decoder.decodeRows(ids, count)
            val before = engine.bound to allocator.count
            assertEquals(8, engine.bound)
            decoder.rewind()
            for (count in 8 downTo 1) decoder.decodeRows(ids, count)
            decoder.decode(5)
            assertEquals(before, engine.bound to allocator.count)
        }
    }

    @Test
    fun `rows are those of single steps, and unwanted tokens are taken back`() {
        for (manifest in manifests(64)) {
            val decoder = Decoder(manifest, TextEngine(::noisy))
            decoder.prefill(intArrayOf(3, 4, 5))
            val single = listOf(6, 7, 8, 3).map { decoder.decode(it)!!.values() }
            decoder.rewind(3)
            assertEquals(single, decoder.decodeRows(intArrayOf(6, 7, 8, 3, 49), 4)!!.map { it.values() })
            assertEquals(listOf(3, 4, 5, 6, 7, 8, 3), decoder.cachedTokens().toList())
            decoder.rewind(5)
            assertEquals(listOf(3, 4, 5, 6, 7), decoder.cachedTokens().toList())
            assertEquals(single.drop(2), decoder.decodeRows(intArrayOf(8, 3))!!.map { it.values() })
            assertNull(decoder.decodeRows(intArrayOf(8), stop = StopSignal().apply { request() }))
            assertEquals(7, decoder.position)
        }
    }

    @Test
    fun `what cannot be done is refused by name before anything runs`() {
        val old = listOf(fakeManifest(dynamic = true), fakeManifest(), fakeManifest(allLogits = true))
        for (manifest in old) {
            val engine = FakeEngine(50)
            val decoder = Decoder(manifest, engine)
            assertTrue(!decoder.givesRows)
            for (refused in listOf({ decoder.decodeRows(intArrayOf(1)) }, { Lookahead(decoder) }, { Generation(decoder, tokenizer, emptySet(), lookahead = 7) })) {
                val error = assertFails<InvalidRequestException> { refused() }
                assertTrue(error.message!!, "logits of the last token of a call alone" in error.what && error.message!!.lines().size == 1)
            }
            Generation(decoder, tokenizer, emptySet()).run(intArrayOf(1), Sampler(50, SamplingOptions()) { 0.0 }, 2) { _, _ -> }
            decoder.rewind()
        }
        assertTrue(!Decoder(manifests(16)[0].copy(graphs = fakeManifest().graphs), FakeEngine(50)).givesRows)
        for (manifest in manifests(16)) {
            val engine = FakeEngine(VOCAB)
            val decoder = Decoder(manifest, engine)
            assertTrue(decoder.givesRows)
            for (most in listOf(-1, 8)) {
                val error = assertFails<InvalidRequestException> { Generation(decoder, tokenizer, emptySet(), lookahead = most) }
                assertTrue(error.message!!, "lookahead $most" in error.what)
                assertFails<InvalidRequestException> { GenerationOverrides(lookahead = most) }
            }
            assertFails<InvalidRequestException> { Lookahead(decoder, 0) }
            assertFails<InvalidRequestException> { decoder.decodeRows(intArrayOf()) }
            assertFails<InvalidRequestException> { decoder.decodeRows(IntArray(9)) }
            assertFails<InvalidRequestException> { decoder.decodeRows(intArrayOf(5), 2) }
            assertFails<InvalidRequestException> { decoder.decodeRows(intArrayOf(5, VOCAB)) }
            decoder.prefill(IntArray(14) { 5 })
            val calls = engine.calls.size
            assertFails<CacheFullException> { decoder.decodeRows(intArrayOf(5, 6, 7)) }
            assertEquals(calls to 14, engine.calls.size to decoder.position)
            assertFails<GraphMismatchException> { engine.bind(manifest.graphs[0], 2, null, rows = 3) }
        }
        assertFails<GraphMismatchException> { FakeEngine(50).bind(fakeManifest(dynamic = true).graphs[0], 4, null, rows = 2) }
    }

    @Test
    fun `texts and conversations of a loaded bundle take it from the settings`() {
        val chat = Tokenizer.open(Vectors.file("tokenizers/chat.json"))
        val turn = RoleForm("Q: ", "\n", Trim.BOTH)
        val form = ChatForm("<s>", turn, "", false, turn, null, null, turn.copy(before = "A:"), "A:")
        val manifest = fakeManifest(dynamic = true, freeRows = true, slots = 300, vocabSize = 4100, widths = listOf(64))
            .copy(chat = ChatSpec(form, null, setOf(4097)))
        val results = listOf(0, 7).map { lookahead ->
            val engine = TextEngine { text -> FloatArray(4100).also { it[if (text.size < 9) 300 + text.size else text[text.size - 9]] = 9f } }
            LoadedBundle(BundleFolder(File("."), manifest), chat, "text", Decoder(manifest, engine), null, 0).use { bundle ->
                val settings = Settings(generation = GenerationOverrides(maxNewTokens = 40, lookahead = lookahead))
                val continued = StringBuilder()
                val stats = GenerationStats()
                bundle.generate("The device is what the device is", settings, StopSignal(), stats) { _, piece -> continued.append(piece) }
                val session = ChatSession(bundle, ChatLabels("System", "You", "Model") { "$it forgotten" })
                val accepted = List(3) { number ->
                    GenerationStats().also { session.say("What is $number?", settings, StopSignal(), it, Silent) }.acceptedTokens
                }
                assertEquals("${stats.acceptedTokens}, $accepted", lookahead > 0, stats.acceptedTokens > 10 && accepted.sum() > 30)
                listOf(continued.toString(), session.turns, bundle.decoder!!.cachedTokens().toList())
            }
        }
        assertEquals(results[0], results[1])
    }

    private object Silent : ChatListener {
        override fun onTranscript(text: String) = Unit

        override fun onPiece(piece: String) = Unit
    }
}
