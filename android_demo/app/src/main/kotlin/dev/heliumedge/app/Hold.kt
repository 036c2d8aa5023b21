package dev.heliumedge.app

/** Something that work in the background needs for as long as it runs. */
interface Hold {
    /** Takes it. */
    fun take()

    /** Gives it back; also where it could not be had. */
    fun release()
}

/** Several of them, of which none is kept behind the work. */
class Holds(private val holds: List<Hold>) : Hold {
    private val taken = ArrayList<Hold>()

    override fun take() {
        try {
            for (hold in holds) {
                taken.add(hold)
                hold.take()
            }
        } catch (error: Throwable) {
            release()
            throw error
        }
    }

    override fun release() {
        var first: Throwable? = null
        for (hold in taken.asReversed()) {
            try {
                hold.release()
            } catch (error: Throwable) {
                // The others are given back all the same.
                first = first ?: error
            }
        }
        taken.clear()
        first?.let { throw it }
    }
}
