package dev.heliumedge.app

import android.content.ComponentCallbacks2
import org.junit.Assert.assertEquals
import org.junit.Test

class MemoryWatchTest {
    private var needed = false
    private var seen = false
    private var freed = 0
    private val watch: ComponentCallbacks2 = MemoryWatch({ needed }, { seen }) { freed++ }

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
    fun `a model that is looked at stays`() {
        seen = true
        watch.onLowMemory()
        assertEquals(0, freed)
        seen = false
        watch.onLowMemory()
        assertEquals(1, freed)
    }
}
