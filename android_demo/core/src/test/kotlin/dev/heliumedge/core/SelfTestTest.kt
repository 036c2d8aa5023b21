package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

class SelfTestTest {
    private val tokenizer = Tokenizer.open(Vectors.file("tokenizers/tiny.json"))

    private fun run(trace: GoldenTrace, choose: (FakeCall) -> Int): SelfTestResult {
        val manifest = fakeManifest(golden = trace)
        return SelfTest(manifest, tokenizer, Decoder(manifest, FakeEngine(50, choose)), tolerance = 0.25).run()
    }

    /** The fake's likely token has the logit 5, all others -1. */
    private fun trace(margins: DoubleArray = doubleArrayOf(6.0, 6.0), logit: Double = 5.0, prompt: IntArray = intArrayOf(1, 4 + 0x21)) =
        GoldenTrace("", prompt, intArrayOf(30, 31), margins, listOf(TopToken(30, logit)))

    private val right: (FakeCall) -> Int = { if (it.position == 0) 30 else 31 }

    @Test
    fun `a device that agrees passes`() {
        val result = run(trace(prompt = intArrayOf(1)), right)
        assertTrue(result.message, result.passed)
        assertEquals(2, result.steps)
    }

    @Test
    fun `another tokenizer, logit or choice fails and says where`() {
        val cases = mapOf(
            "tokenizer" to run(trace(), right),
            "logit" to run(trace(prompt = intArrayOf(1), logit = 5.5), right),
            "step 1" to run(trace(prompt = intArrayOf(1))) { 30 },
        )
        for ((word, result) in cases) {
            assertFalse(result.passed)
            assertTrue(result.message, word in result.message)
        }
    }

    @Test
    fun `a near tie of the record is a tie only when it is one here too`() {
        val result = run(trace(prompt = intArrayOf(1), margins = doubleArrayOf(6.0, 0.1))) { 30 }
        assertFalse("here the other token leads by 6", result.passed)
    }

    @Test
    fun `the bundle says how far a logit may be off`() {
        for ((allowed, passes) in listOf(0.5 to true, 0.3 to false, null to true)) {
            val trace = GoldenTrace(
                "", intArrayOf(1), intArrayOf(30, 31), doubleArrayOf(6.0, 6.0), listOf(TopToken(30, 5.4)), allowed,
            )
            val manifest = fakeManifest(golden = trace)
            val result = SelfTest(manifest, tokenizer, Decoder(manifest, FakeEngine(50, right))).run()
            assertEquals(result.message, passes, result.passed)
        }
    }

    @Test
    fun `a bundle without a trace is refused`() {
        val manifest = fakeManifest()
        assertFails<InvalidRequestException> { SelfTest(manifest, tokenizer, Decoder(manifest, FakeEngine(50))).run() }
    }
}
