package dev.heliumedge.app

import org.junit.Assert.assertEquals
import org.junit.Assert.assertSame
import org.junit.Test

class HoldsTest {
    private val log = ArrayList<String>()

    private fun hold(name: String, taking: Throwable? = null, releasing: Throwable? = null) = object : Hold {
        override fun take() {
            log.add("+$name")
            taking?.let { throw it }
        }

        override fun release() {
            log.add("-$name")
            releasing?.let { throw it }
        }
    }

    @Test
    fun `they are given back in the opposite order, once`() {
        val holds = Holds(listOf(hold("grant"), hold("service"), hold("awake")))
        holds.take()
        holds.release()
        holds.release()
        assertEquals(listOf("+grant", "+service", "+awake", "-awake", "-service", "-grant"), log)
    }

    @Test
    fun `one that cannot be had leaves none behind`() {
        val problem = SecurityException("no")
        assertSame(problem, thrown { Holds(listOf(hold("grant"), hold("service", taking = problem), hold("awake"))).take() })
        assertEquals(listOf("+grant", "+service", "-service", "-grant"), log)
    }

    @Test
    fun `one that cannot be given back does not keep the others`() {
        val problem = IllegalStateException("stuck")
        val holds = Holds(listOf(hold("grant"), hold("service", releasing = problem)))
        holds.take()
        assertSame(problem, thrown(holds::release))
        assertEquals("-grant", log.last())
    }

    private fun thrown(block: () -> Unit): Throwable? = try {
        block()
        null
    } catch (error: RuntimeException) {
        error
    }
}
