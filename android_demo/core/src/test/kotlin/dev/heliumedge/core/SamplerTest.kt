package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.nio.FloatBuffer

class SamplerTest {
    @Test
    fun `picks are those of the reference for given uniforms`() {
        val cases = Vectors.cases("sampler.json")
        assertTrue(cases.size > 400)
        cases.forEachIndexed { index, case ->
            val logits = case.texts("logits").map { it.asFloat() }.toFloatArray()
            val options = options(case)
            val context = TokenLog().apply { case.ints("context").forEach(::add) }
            val uniforms = case.doubles("uniforms").iterator()
            val sampler = Sampler(logits.size, options) { uniforms.next() }
            val expected = case.intsOrNull("picks")
            if (expected == null && case.flag("ruled_out")) {
                assertFails<InvalidRequestException> { sampler.pick(FloatBuffer.wrap(logits), 0, context) }
            } else if (expected == null) {
                assertFails<BadLogitsException> { sampler.pick(FloatBuffer.wrap(logits), 0, context) }
            } else {
                // Behind other rows, as `logits: all` returns them.
                val shifted = FloatBuffer.wrap(FloatArray(7) + logits)
                assertEquals("case $index with $options", expected, expected.map { sampler.pick(shifted, 7, context) })
            }
        }
    }

    @Test
    fun `a row is read where it lies, and the buffer is left as it was`() {
        val direct = BufferAllocator.Direct.allocate(4 * 9).asFloatBuffer()
        for (index in 0 until 9) direct.put(index, listOf(0f, 9f, 1f, 2f, 8f, 3f, 4f, 7f, 5f)[index])
        direct.position(5)
        val sampler = Sampler(3, SamplingOptions(suppressTokens = listOf(2))) { 0.0 }
        assertEquals(listOf(1, 1, 1), listOf(0, 3, 6).map { sampler.pick(direct, it) })
        assertEquals(listOf(0, 2, 1), listOf(4, 2, 6).map { Sampler(3, SamplingOptions()) { 0.0 }.pick(direct, it) })
        assertEquals("who reads on by position finds it", 5 to 9, direct.position() to direct.limit())
        assertEquals("options change a copy", listOf(0f, 9f, 1f, 2f, 8f, 3f, 4f, 7f, 5f), List(9) { direct.get(it) })
        val row = FloatArray(3)
        direct.read(6, row)
        assertEquals(listOf(4f, 7f, 5f), row.toList())
    }

    @Test
    fun `options out of range are refused`() {
        assertFails<InvalidRequestException> { SamplingOptions(temperature = -0.1) }
        assertFails<InvalidRequestException> { SamplingOptions(temperature = Double.NaN) }
        assertFails<InvalidRequestException> { SamplingOptions(topK = -1) }
        assertFails<InvalidRequestException> { SamplingOptions(topP = 0.0) }
        assertFails<InvalidRequestException> { SamplingOptions(topP = Double.NaN) }
        assertFails<InvalidRequestException> { SamplingOptions(minP = 1.1) }
        assertFails<InvalidRequestException> { SamplingOptions(minP = Double.NaN) }
        assertFails<InvalidRequestException> { SamplingOptions(repetitionPenalty = 0.0) }
        assertFails<InvalidRequestException> { SamplingOptions(noRepeatNgramSize = -1) }
    }

    @Test
    fun `seeded uniforms repeat and lie in the unit interval`() {
        val first = SeededUniforms(1)
        val second = SeededUniforms(1)
        val values = List(1000) { first.next() }
        assertEquals(values, List(1000) { second.next() })
        assertTrue(values.all { it >= 0 && it < 1 })
        assertEquals(0.5, values.average(), 0.05)
        // The first output of the published algorithm for seed 0 is e220a8397b1dcdaf.
        assertEquals((-0x1ddf57c684e23251L ushr 11) * (1.0 / (1L shl 53)), SeededUniforms(0).next(), 0.0)
    }

    @Test
    fun `what is asked for takes the place of the defaults as in the reference`() {
        val cases = Vectors.cases("overrides.json")
        assertTrue(cases.size > 400 && cases.count { it.has("refused") } > 40)
        for (case in cases) {
            val defaults = ManifestReader.generation(JsonFields.of(case.json("defaults"), "generation"))
            val asked = Case((case.json("asked") as Json.Obj).fields)
            if (case.has("refused")) {
                val error = assertFails<InvalidRequestException> { overrides(asked) }
                assertTrue(error.message!!, "out of range" in error.what || "is empty" in error.what)
                continue
            }
            val wanted = overrides(asked).applyTo(defaults)
            val expected = case.document("options")
            assertEquals(options(expected), SamplingOptions.of(wanted))
            assertEquals(case.texts("stop_strings"), wanted.stopStrings)
            assertEquals("$asked", case.ints("new_tokens"), case.ints("prompt_tokens").map(wanted::newTokensBehind))
        }
        assertFails<InvalidRequestException> { GenerationOverrides(maxNewTokens = 0) }
        assertFails<InvalidRequestException> { GenerationOverrides(maxLength = 0) }
        assertFails<InvalidRequestException> { GenerationOverrides(suppressTokens = listOf(3, -1)) }
        val both = GenerationOverrides(maxNewTokens = 9, maxLength = 12).applyTo(GenerationDefaults(false, 1.0, 0, 1.0, 8, maxLength = 100))
        assertEquals(listOf(9, 2, 1), listOf(3, 10, 50).map(both::newTokensBehind))
        val none = GenerationOverrides(suppressTokens = emptyList(), stopStrings = emptyList())
            .applyTo(GenerationDefaults(false, 1.0, 0, 1.0, 8, suppressTokens = listOf(1), stopStrings = listOf("x")))
        assertTrue(none.suppressTokens.isEmpty() && none.stopStrings.isEmpty())
    }

    private fun options(case: Case) = SamplingOptions(
        case.double("temperature"), case.int("top_k"), case.double("top_p"), case.double("min_p"),
        case.double("repetition_penalty"), case.int("no_repeat_ngram_size"), case.ints("suppress_tokens"),
    )

    private fun overrides(asked: Case): GenerationOverrides {
        fun number(key: String) = if (asked.has(key)) asked.double(key) else null
        fun whole(key: String) = if (asked.has(key)) asked.int(key) else null
        return GenerationOverrides(
            number("temperature"), whole("top_k"), number("top_p"), number("min_p"), number("repetition_penalty"),
            whole("no_repeat_ngram_size"), if (asked.has("suppress_tokens")) asked.ints("suppress_tokens") else null,
            if (asked.has("stop_strings")) asked.texts("stop_strings") else null, whole("max_new_tokens"), whole("max_length"),
        )
    }

    @Test
    fun `stop strings cut texts where the reference does`() {
        val cases = Vectors.cases("stop-strings.json")
        assertTrue(cases.size > 100)
        for (case in cases) {
            val stop = StopStrings(case.texts("strings"), case.text("before"))
            val shown = case.texts("pieces").zip(case.flags("seen")).map { (piece, seen) -> stop.push(piece, seen) } + stop.finish()
            assertEquals(case.texts("shown"), shown)
            assertEquals(case.flag("found"), stop.found)
        }
        assertFails<InvalidRequestException> { StopStrings(listOf("")) }
    }

    private fun String.asFloat(): Float = when (this) {
        "nan" -> Float.NaN
        "inf" -> Float.POSITIVE_INFINITY
        "-inf" -> Float.NEGATIVE_INFINITY
        else -> toDouble().toFloat()
    }
}
