package dev.heliumedge.app

/**
 * Finds the number of threads that decodes fastest. Whatever ends the search, the model is left with the best number, or
 * with the one that it had: half a search compares nothing.
 *
 * @param load Loads the model with a number of threads; false when that was stopped.
 * @param speed Tokens per second of what is loaded; null when the measurement was stopped.
 * @param leave Leaves the model with a number of threads, also when everything else is to stop.
 */
class ThreadSearch(private val load: (Int) -> Boolean, private val speed: () -> Double?, private val leave: (Int) -> Unit) {
    /** The best number; null when the search was stopped. */
    fun best(before: Int, candidates: List<Int>): Int? {
        val found = try {
            search(before, candidates)
        } catch (error: Throwable) {
            try {
                leave(before)
            } catch (second: Throwable) {
                error.addSuppressed(second)
            }
            throw error
        }
        leave(found ?: before)
        return found
    }

    private fun search(before: Int, candidates: List<Int>): Int? {
        var best = before
        var most = 0.0
        for (threads in candidates) {
            if (!load(threads)) return null
            val found = speed() ?: return null
            if (found > most) {
                most = found
                best = threads
            }
        }
        return best
    }
}
