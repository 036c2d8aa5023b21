package dev.heliumedge.app

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Test

class ThreadSearchTest {
    private var loaded = 5
    private val speeds = mapOf(1 to 3.0, 2 to 9.0, 4 to 7.0)

    private fun search(load: (Int) -> Boolean = { true }, leave: (Int) -> Unit = { loaded = it }, speed: (Int) -> Double? = speeds::get) =
        ThreadSearch({ threads -> load(threads).also { if (it) loaded = threads } }, { speed(loaded) }, leave)

    @Test
    fun `the fastest number stays`() {
        assertEquals(2, search().best(5, listOf(1, 2, 4)))
        assertEquals(2, loaded)
    }

    @Test
    fun `a stopped search leaves what there was`() {
        assertNull(search(speed = { if (it == 4) null else 1.0 }).best(5, listOf(1, 2, 4)))
        assertEquals(5, loaded)
        assertNull(search(load = { it != 2 }).best(5, listOf(1, 2, 4)))
        assertEquals(5, loaded)
    }

    @Test
    fun `so does one that fails, with its own error`() {
        val problem = OutOfMemoryError("four are too many")
        val failing = search(speed = { if (it == 4) throw problem else 1.0 })
        assertSame(problem, thrown { failing.best(5, listOf(1, 4)) })
        assertEquals(5, loaded)
        val second = IllegalStateException("nor is there room for what there was")
        assertSame(problem, thrown { search(leave = { throw second }, speed = { throw problem }).best(5, listOf(1)) })
        assertSame(second, problem.suppressed.single())
    }

    private fun thrown(block: () -> Unit): Throwable? = try {
        block()
        null
    } catch (error: Throwable) {
        error
    }
}
