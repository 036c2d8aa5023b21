package dev.heliumedge.app

import org.junit.Assert.assertEquals
import org.junit.Test

class SeldomTest {
    @Test
    fun `it is due at once, and then once in its time however often one asks`() {
        // A clock may begin anywhere, below zero as well.
        for (start in listOf(0L, -500L, 1L shl 60)) {
            var now = start
            val seldom = Seldom(60) { now }
            val due = (0L until 200).filter {
                now = start + it
                seldom.isDue()
            }
            assertEquals(listOf(0L, 60, 120, 180), due)
        }
    }
}
