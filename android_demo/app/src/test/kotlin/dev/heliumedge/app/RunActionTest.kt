package dev.heliumedge.app

import org.junit.Assert.assertEquals
import org.junit.Test

class RunActionTest {
    @Test
    fun `the button stops what runs, else it does what fits the bundle`() {
        for (chats in listOf(false, true)) for (classifies in listOf(false, true)) {
            assertEquals(RunAction.STOP, RunAction.of(busy = true, chats = chats, classifies = classifies))
        }
        assertEquals(RunAction.SEND, RunAction.of(busy = false, chats = true, classifies = false))
        assertEquals(RunAction.CLASSIFY, RunAction.of(busy = false, chats = false, classifies = true))
        assertEquals(RunAction.GENERATE, RunAction.of(busy = false, chats = false, classifies = false))
    }

    @Test
    fun `each action has a word of its own`() {
        assertEquals(RunAction.values().size, RunAction.values().map { it.text }.toSet().size)
    }
}
