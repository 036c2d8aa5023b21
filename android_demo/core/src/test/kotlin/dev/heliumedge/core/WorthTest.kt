package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Test

class WorthTest {
    @Test
    fun `guesses that do not pay are given up for a while and tried again`() {
        val worth = Worth()
        assertFalse("nothing to compare with yet", worth.wantsGuess())
        worth.stepped(10)
        repeat(3) {
            assertTrue(worth.wantsGuess())
            worth.guessed(20, 1)
        }
        assertEquals(List(16) { false } + true, List(17) { worth.wantsGuess() })
        repeat(3) { worth.guessed(20, 1) }
        assertEquals(List(32) { false } + true, List(33) { worth.wantsGuess() })
        // A guess that pays ends the doubling.
        repeat(3) { worth.guessed(20, 8) }
        assertTrue(worth.wantsGuess())
        while (worth.wantsGuess()) worth.guessed(200, 1)
        assertEquals(List(15) { false } + true, List(16) { worth.wantsGuess() })
    }

    @Test
    fun `what a call gives is held against what it takes`() {
        for ((tokens, pays) in listOf(3 to true, 1 to false)) {
            val worth = Worth()
            worth.stepped(10)
            repeat(8) { if (worth.wantsGuess()) worth.guessed(15, tokens) }
            assertEquals(pays, worth.wantsGuess())
        }
    }

    @Test
    fun `a text for which guesses take too long is soon given single steps`() {
        var now = 0L
        // Repeats pairs of tokens, and goes on otherwise than it did.
        val engine = TextEngine { text -> FloatArray(50).also { it[if (text.size % 3 == 0) 5 + text.size / 3 % 40 else text.size % 3] = 9f } }
        engine.beforeRun = { width -> now += if (width == 1) 10L else 30L }
        val manifest = fakeManifest(dynamic = true, freeRows = true, slots = 200)
        val decoder = Decoder(manifest, engine)
        val tokenizer = Tokenizer.open(Vectors.file("tokenizers/tiny.json"))
        val stats = Generation(decoder, tokenizer, emptySet(), { now }, lookahead = 7)
            .run(intArrayOf(1, 2, 9, 1, 2), Sampler(50, SamplingOptions()) { 0.0 }, 150) { _, _ -> }
        assertTrue("${stats.guessedTokens}", stats.guessedTokens > 0)
        val guesses = engine.widths.drop(1).count { it > 1 }
        assertTrue("$guesses calls with guesses of ${stats.decodeCalls}", guesses in 3..18)
        assertTrue(engine.widths.drop(1).take(12).count { it > 1 } >= 2)
    }
}
