package dev.heliumedge.core

/** The one conversation of an app; it stays while screens are made anew, and bundles freed and loaded again. */
public class ChatState {
    /** Gets an answer as it comes, in the thread of the model. */
    public interface Listener : ChatListener {
        /** The figures so far. */
        public fun onStats(stats: GenerationStats)
    }

    @Volatile
    private var kept: ChatSession? = null

    /** Name of the bundle that it is with. */
    @Volatile
    private var with: String? = null

    @Volatile
    private var isOpen = false

    /** Whether that bundle is loaded. */
    @Volatile
    private var isReady = false

    /** The conversation; null while the screen is that of a text, or while its bundle is not loaded. */
    public val session: ChatSession? get() = if (isOpen && isReady) kept else null

    /** Begins a conversation with a bundle, or goes on with the one before; one that cannot chat refuses by name. */
    public fun open(bundle: LoadedBundle, labels: ChatLabels, system: String): ChatSession {
        val current = kept ?: ChatSession(bundle, labels).also { it.reset(system) }
        kept = current
        with = bundle.manifest.name
        isReady = true
        isOpen = true
        return current
    }

    /** Back to texts; the conversation is kept. */
    public fun close() {
        isOpen = false
    }

    /** Its bundle is freed: the conversation waits until it is loaded again. */
    public fun pause() {
        isReady = false
    }

    /** Goes on with the same bundle, loaded again; another one ends the conversation. */
    public fun reloaded(bundle: LoadedBundle, labels: ChatLabels) {
        val before = kept
        if (before == null || bundle.manifest.name != with) {
            isOpen = false
            kept = null
        } else {
            kept = ChatSession(bundle, labels, before)
            isReady = true
        }
    }

    /** Answers a message, or the last one again where it is null. */
    public fun answer(session: ChatSession, message: String?, settings: Settings, stop: StopSignal, listener: Listener): ChatTurn {
        val stats = GenerationStats()
        val shown = object : ChatListener by listener {
            override fun onPiece(piece: String) {
                listener.onPiece(piece)
                listener.onStats(stats)
            }
        }
        return try {
            if (message == null) session.regenerate(settings, stop, stats, shown) else session.say(message, settings, stop, stats, shown)
        } finally {
            listener.onStats(stats)
        }
    }
}
