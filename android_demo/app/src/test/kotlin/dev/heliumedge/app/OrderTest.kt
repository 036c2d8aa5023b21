package dev.heliumedge.app

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Test

class OrderTest {
    private val extras = mapOf(Order.BUNDLE to "tiny", Order.BENCHMARK to "a1")

    private fun order(entrance: String? = Order.ENTRANCE, again: Boolean = false, extras: Map<String, String> = this.extras) =
        Order.of(entrance, again, extras::get)

    @Test
    fun `the shell opens bundles and measures them`() {
        val measure = order() as Order.Measure
        assertEquals("tiny a1", "${measure.bundle} ${measure.id}")
        assertEquals("tiny", (order(extras = extras - Order.BENCHMARK) as Order.Open).bundle)
        assertTrue("a start of the app", order(extras = emptyMap()) is Order.Look)
        assertTrue("no bundle", order(extras = extras - Order.BUNDLE) is Order.Look)
    }

    @Test
    fun `no other app gets more than the screen, nor are its extras read`() {
        for (entrance in listOf("dev.heliumedge.app.MainActivity", null, "")) {
            val order = Order.of(entrance, again = false) { throw AssertionError("$entrance was asked for $it") }
            assertTrue("$entrance", order is Order.Look)
        }
    }

    @Test
    fun `an order is carried out once`() {
        assertTrue("from the list of recent apps", order(again = true) is Order.Look)
    }

    @Test
    fun `what cannot name a document is no measurement`() {
        for (id in listOf("", "../x", "A", "a".repeat(41))) assertTrue(id, order(extras = extras + (Order.BENCHMARK to id)) is Order.Look)
    }
}
