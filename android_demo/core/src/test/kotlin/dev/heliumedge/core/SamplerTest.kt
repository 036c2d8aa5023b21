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
            val options = SamplingOptions(
                case.double("temperature"), case.int("top_k"), case.double("top_p"), case.double("min_p"),
                case.double("repetition_penalty"), case.int("no_repeat_ngram_size"), case.ints("suppress_tokens"),
            )
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
    fun `stop strings cut texts where the reference does`() {
        val cases = Vectors.cases("stop-strings.json")
        assertTrue(cases.size > 100)
        for (case in cases) {
            val stop = StopStrings(case.texts("strings"))
            val shown = case.texts("pieces").map(stop::push) + stop.finish()
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
