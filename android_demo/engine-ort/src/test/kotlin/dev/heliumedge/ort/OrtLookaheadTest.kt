package dev.heliumedge.ort

import dev.heliumedge.core.BundleFolder
import dev.heliumedge.core.Case
import dev.heliumedge.core.Decoder
import dev.heliumedge.core.Generation
import dev.heliumedge.core.GenerationStats
import dev.heliumedge.core.InvalidRequestException
import dev.heliumedge.core.Logits
import dev.heliumedge.core.Lookahead
import dev.heliumedge.core.Sampler
import dev.heliumedge.core.SamplingOptions
import dev.heliumedge.core.SeededUniforms
import dev.heliumedge.core.Vectors
import dev.heliumedge.core.assertFails
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import kotlin.math.abs

/** Guesses on real graphs: texts that begin to repeat themselves, with guesses and by single steps. */
class OrtLookaheadTest {
    private val cases = Vectors.cases("lookahead-texts.json")
    private val names = listOf("in_place", "append", "int8", "half")

    private class Text(val ids: List<Int>, val cached: List<Int>, val stats: GenerationStats)

    /** A clock that stands still: what is guessed does not hang on the machine. */
    private fun text(bundle: BundleFolder, decoder: Decoder, case: Case, lookahead: Int, temperature: Double = 0.0): Text {
        val ids = ArrayList<Int>()
        decoder.rewind()
        val sampler = Sampler(decoder.vocabSize, SamplingOptions(temperature, topK = 20), SeededUniforms(3))
        val stats = Generation(decoder, bundle.tokenizer(), bundle.manifest.tokens.eos, { 0L }, lookahead = lookahead)
            .run(case.ints("prompt_ids").toIntArray(), sampler, 48) { id, _ -> if (id != Generation.NO_TOKEN) ids.add(id) }
        return Text(ids, decoder.cachedTokens().toList(), stats)
    }

    @Test
    fun `in float32 every text is that of single steps and of the Python host`() {
        val bundle = open("float32")
        running(bundle) { _, decoder ->
            assertTrue("graphs return the logits of several tokens", decoder.givesRows)
            var steps = 0
            var calls = 0
            for (case in cases) {
                for (temperature in listOf(0.0, 0.7)) {
                    val plain = text(bundle, decoder, case, 0, temperature)
                    val ahead = text(bundle, decoder, case, 7, temperature)
                    if (temperature == 0.0) assertEquals(case.text("prompt"), case.ints("ids"), plain.ids)
                    assertEquals(case.text("prompt"), plain.ids, ahead.ids)
                    assertEquals(plain.cached, ahead.cached)
                    assertEquals(plain.stats.stopReason, ahead.stats.stopReason)
                    assertEquals(ahead.stats.decodeSteps, ahead.stats.decodeCalls + ahead.stats.acceptedTokens)
                    steps += ahead.stats.decodeSteps
                    calls += ahead.stats.decodeCalls
                }
            }
            println("float32: ${2 * cases.size} texts equal, $calls calls for $steps tokens")
            assertTrue("$calls calls for $steps tokens", calls < 0.95 * steps)
        }
    }

    /**
     * int4 rounds one row and several differently, so that texts may part where two tokens are nearly tied. What is
     * compared: most texts whole, and of the others that they part at such a tie.
     */
    @Test
    fun `in int4 texts part at near ties alone`() {
        for (name in names) {
            val bundle = open(name)
            running(bundle) { _, decoder ->
                assertTrue(name, decoder.givesRows)
                var equal = 0
                var accepted = 0
                var widest = 0f
                val fitting = cases.filter { it.ints("prompt_ids").size + 16 < decoder.cacheLen }
                for (case in fitting) {
                    val plain = text(bundle, decoder, case, 0)
                    val ahead = text(bundle, decoder, case, 7)
                    accepted += ahead.stats.acceptedTokens
                    val parting = plain.ids.zip(ahead.ids).indexOfFirst { (one, other) -> one != other }
                    if (parting < 0) {
                        equal++
                        assertEquals(plain.cached, ahead.cached)
                        continue
                    }
                    val row = decoder.rows(case.ints("prompt_ids"), plain.ids.take(parting))
                    val margin = abs(row.of(plain.ids[parting]) - row.of(ahead.ids[parting]))
                    assertTrue("$name: parts with a margin of $margin", margin < bundle.manifest.golden!!.tolerance!!)
                    widest = maxOf(widest, margin)
                }
                println("$name: $equal of ${fitting.size} texts equal, the others part by up to $widest; $accepted guesses accepted")
                assertTrue("$name: $equal of ${fitting.size}", 2 * equal > fitting.size && fitting.size > 4)
                assertTrue(name, accepted > 0)
            }
        }
    }

    private fun Decoder.rows(prompt: List<Int>, then: List<Int>): Logits {
        rewind()
        var row = prefill(prompt.toIntArray())!!
        for (id in then) row = decode(id)!!
        return row
    }

    private fun Logits.of(id: Int) = buffer.get(offset + id)

    @Test
    fun `rows of one call are those of single steps`() {
        for (name in names + "float32") {
            running(open(name)) { _, decoder ->
                val ids = IntArray(8) { 310 + 7 * it }
                val prompt = IntArray(20) { 300 + it }
                decoder.prefill(prompt)
                val single = ids.map { id -> decoder.decode(id)!!.let { row -> FloatArray(decoder.vocabSize) { row.of(it) } } }
                for (count in 1..8) {
                    decoder.rewind(prompt.size)
                    decoder.decodeRows(ids, count)!!.forEachIndexed { index, row ->
                        val off = single[index].indices.maxOf { abs(single[index][it] - row.of(it)) }
                        assertTrue("$name: row $index of $count is off by $off", off < if (name == "float32") 1e-3f else 0.5f)
                        val next = single.indices.filter { it != index }.minOf { other -> single[other].indices.maxOf { abs(single[other][it] - row.of(it)) } }
                        assertTrue("$name: row $index of $count is off by $off, from another row by $next", off < 0.5 * next)
                    }
                    assertEquals(prompt.size + count, decoder.position)
                }
            }
        }
    }

    @Test
    fun `once every width was there, a guess makes no tensor and no buffer`() {
        val allocator = Keeping()
        running(open("in_place"), allocator = allocator) { engine, decoder ->
            val ids = IntArray(8) { 300 + it }
            for (count in 1..8) decoder.decodeRows(ids, count)
            val before = engine.tensorsCreated to allocator.buffers.size
            for (count in 1..8) decoder.decodeRows(ids, count)
            decoder.decode(310)
            assertEquals(before, engine.tensorsCreated to allocator.buffers.size)
        }
    }

    @Test
    fun `static graphs are refused by name`() {
        running(open("in_place"), static = true) { _, decoder ->
            val error = assertFails<InvalidRequestException> { Lookahead(decoder) }
            assertTrue(error.what, "logits of the last token of a call alone" in error.what)
        }
    }
}
