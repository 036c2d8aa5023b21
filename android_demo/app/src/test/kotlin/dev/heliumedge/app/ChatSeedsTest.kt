package dev.heliumedge.app

import org.junit.Assert.assertEquals
import org.junit.Test

class ChatSeedsTest {
    private val seeds = ChatSeeds()

    @Test
    fun `each answer of a conversation draws from the next seed`() {
        assertEquals(listOf(7L, 8L, 102L), listOf(7L, 7L, 100L).map { seeds.next("tiny", it) })
        seeds.loaded("tiny")
        assertEquals("the conversation goes on", 10L, seeds.next("tiny", 7))
    }

    @Test
    fun `another bundle ends it`() {
        seeds.next("tiny", 7)
        seeds.loaded("other")
        seeds.loaded("tiny")
        assertEquals(7L, seeds.next("tiny", 7))
    }
}
