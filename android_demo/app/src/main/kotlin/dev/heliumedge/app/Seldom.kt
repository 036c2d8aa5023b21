package dev.heliumedge.app

/** Lets something be done at once, and then not more often than once in so many nanoseconds of [now]. One thread asks it. */
class Seldom(private val nanos: Long, private val now: () -> Long = System::nanoTime) {
    private var last: Long? = null

    /** Whether it is to be done now. */
    fun isDue(): Boolean {
        val time = now()
        val before = last
        if (before != null && time - before < nanos) return false
        last = time
        return true
    }
}
