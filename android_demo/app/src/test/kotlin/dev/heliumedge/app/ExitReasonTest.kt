package dev.heliumedge.app

import org.junit.Assert.assertEquals
import org.junit.Test

class ExitReasonTest {
    private val began = 1_000_000L

    private fun of(vararg exits: Exit) = ExitReason.of(exits.asList(), began)

    @Test
    fun `memory is blamed where the system says so, and nowhere else`() {
        // Numbers of ApplicationExitInfo, 0 to 16.
        val reasons = (0..16).map { of(Exit(it, 0, began + 5)) }
        assertEquals(listOf(3), reasons.indices.filter { reasons[it] == ExitReason.MEMORY })
        assertEquals(ExitReason.KILLED, of(Exit(2, 9, began)))
        assertEquals(ExitReason.CRASH, of(Exit(2, 11, began)))
        assertEquals(listOf(4, 5), reasons.indices.filter { reasons[it] == ExitReason.CRASH } - 2)
        assertEquals(listOf(ExitReason.HUNG, ExitReason.GREEDY), listOf(reasons[6], reasons[9]))
        assertEquals(listOf(10, 11), reasons.indices.filter { reasons[it] == ExitReason.USER })
        assertEquals(listOf(8, 15, 16), reasons.indices.filter { reasons[it] == ExitReason.CHANGED })
    }

    @Test
    fun `it is the exit that ended the load, not one before or behind it`() {
        val exits = arrayOf(Exit(10, 0, began + 90_000), Exit(5, 11, began + 3_000), Exit(3, 0, began - 60_000))
        assertEquals(ExitReason.CRASH, of(*exits))
        assertEquals(ExitReason.CRASH, of(*exits.reversedArray()))
        assertEquals("the clock of a file may be coarse", ExitReason.MEMORY, of(Exit(3, 0, began - 900)))
    }

    @Test
    fun `where the system does not tell, nobody guesses`() {
        assertEquals(ExitReason.UNKNOWN, of())
        assertEquals(ExitReason.UNKNOWN, of(Exit(3, 0, began - 60_000)))
    }

    @Test
    fun `each reason has words of its own`() {
        assertEquals(ExitReason.values().size, ExitReason.values().map { it.text }.toSet().size)
    }
}
