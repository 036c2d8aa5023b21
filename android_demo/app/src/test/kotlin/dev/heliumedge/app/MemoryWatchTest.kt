package dev.heliumedge.app

import android.content.ComponentCallbacks2
import org.junit.Assert.assertEquals
import org.junit.Test

class MemoryWatchTest {
    private var needed = false
    private var seen = false
    private var freed = 0
    private val memory = MemoryWatch({ needed }, { seen }) { freed++ }
    private val watch: ComponentCallbacks2 = memory

    @Test
    fun `a process in the background gives the model back`() {
        watch.onTrimMemory(20) // the screen is hidden: the user may be back in a second
        assertEquals(0, freed)
        watch.onTrimMemory(ComponentCallbacks2.TRIM_MEMORY_BACKGROUND)
        watch.onTrimMemory(80)
        assertEquals(2, freed)
    }

    @Test
    fun `an import goes on`() {
        needed = true
        watch.onTrimMemory(80)
        watch.onLowMemory()
        assertEquals(0, freed)
    }

    @Test
    fun `what the system asked for in vain is known while it goes on, once`() {
        needed = true
        watch.onTrimMemory(20)
        assertEquals("it did not ask", false, memory.owes())
        for (ask in listOf({ watch.onTrimMemory(40) }, { watch.onLowMemory() })) {
            ask()
            assertEquals(listOf(true, false), List(2) { memory.owes() })
        }
        watch.onTrimMemory(40)
        seen = true
        assertEquals("somebody is back, who wants the model", false, memory.owes())
        seen = false
        assertEquals(false, memory.owes())
        needed = false
        watch.onTrimMemory(40)
        assertEquals("it was freed at once", 1 to false, freed to memory.owes())
    }

    @Test
    fun `a model that is looked at stays`() {
        seen = true
        watch.onLowMemory()
        assertEquals(0, freed)
        seen = false
        watch.onLowMemory()
        assertEquals(1, freed)
    }
}
