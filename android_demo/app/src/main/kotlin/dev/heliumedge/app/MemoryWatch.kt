package dev.heliumedge.app

import android.content.ComponentCallbacks2
import android.content.res.Configuration

/**
 * Frees the model where the system would otherwise end the process. It listens for the process, not for a screen: a model
 * outlives the last screen, and then nobody else would hear of it.
 *
 * @param isNeeded Whether something goes on that the process is kept for.
 * @param isSeen Whether there is a screen in front.
 */
class MemoryWatch(private val isNeeded: () -> Boolean, private val isSeen: () -> Boolean, private val free: () -> Unit) : ComponentCallbacks2 {
    /** Whether the system asked while something went on. */
    @Volatile
    private var isOwed = false

    /** Whether the model is to be freed now because the system asked in vain before, and nobody came back since; once. */
    fun owes(): Boolean {
        if (!isOwed) return false
        isOwed = false
        return !isSeen()
    }

    override fun onTrimMemory(level: Int) {
        if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) asked()
    }

    /** Told to every process, also to the one that the user looks at: there the model is what they want. */
    @Deprecated("Android 14 and later do not call it.")
    override fun onLowMemory() {
        if (!isSeen()) asked()
    }

    private fun asked() {
        if (isNeeded()) isOwed = true else free()
    }

    override fun onConfigurationChanged(newConfig: Configuration) = Unit
}
