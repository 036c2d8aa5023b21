package dev.heliumedge.core

/** Ends what is running, from any thread; for one generation. */
public class StopSignal {
    private var requested = false
    private var running: GraphEngine? = null

    /** Whether [request] was called. */
    public val isRequested: Boolean
        @Synchronized get() = requested

    /** Asks to stop; a call of the runtime that can be interrupted is. */
    @Synchronized
    public fun request() {
        requested = true
        running?.interrupt()
    }

    /** Says that a call begins; false when it must not. */
    @Synchronized
    internal fun attach(engine: GraphEngine): Boolean {
        if (!requested) running = engine
        return !requested
    }

    /** Says that it ended; from now on no [request] reaches the engine, which is made ready for other calls. */
    @Synchronized
    internal fun detach(engine: GraphEngine) {
        running = null
        if (requested) engine.resume()
    }
}

/** Runs a call that [stop] may interrupt; null when it did, before or during the call. */
internal inline fun <T> GraphEngine.unlessStopped(stop: StopSignal?, call: () -> T): T? {
    if (stop == null) return call()
    if (!stop.attach(this)) return null
    try {
        return call()
    } catch (error: EngineException) {
        // An interrupted call ends as a failed one; it has advanced nothing.
        if (stop.isRequested) return null else throw error
    } finally {
        stop.detach(this)
    }
}
