package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class NgramLookupTest {
    @Test
    fun `guesses are those of the Python host`() {
        val cases = Vectors.cases("lookups.json")
        assertTrue(cases.size >= 300)
        var guessed = 0
        for ((number, case) in cases.withIndex()) {
            val lookup = NgramLookup()
            for ((index, step) in case.cases("steps").withIndex()) {
                step.ints("more").forEach(lookup::add)
                assertEquals("text $number, step $index", step.ints("guess"), lookup.guessed(step.int("most")))
                if (step.ints("guess").isNotEmpty()) guessed++
            }
        }
        assertTrue("$guessed", guessed > 2000)
    }

    @Test
    fun `the longest match is taken, and the last one`() {
        val lookup = NgramLookup()
        listOf(1, 2, 3, 9, 9, 2, 3, 8, 8, 1, 2, 3).forEach(lookup::add)
        assertEquals("1 2 3 once, 2 3 later", listOf(9, 9), lookup.guessed(2))
        listOf(8, 2, 3).forEach(lookup::add)
        assertEquals("where 2 3 stood last", listOf(8, 2, 3), lookup.guessed(3))
        assertEquals(emptyList<Int>(), lookup.guessed(0))
        lookup.add(7)
        assertEquals(emptyList<Int>(), lookup.guessed(3))
    }

    private fun NgramLookup.guessed(most: Int): List<Int> {
        val into = IntArray(most + 1) { -1 }
        val count = guess(into, 1, most)
        assertEquals("the place before is the caller's", -1, into[0])
        return into.slice(1..count)
    }
}
