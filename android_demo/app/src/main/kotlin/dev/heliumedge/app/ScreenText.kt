package dev.heliumedge.app

/** How often new text is laid out: each time costs as much as all the text there is. */
private const val FRAME_MILLIS = 50L

/**
 * What the screen shows, kept without one; the main thread alone touches it.
 *
 * @param later Runs a block in the main thread, so many milliseconds from now.
 */
class ScreenText(private val later: (Runnable, Long) -> Unit) {
    /** A screen that shows it. */
    interface View {
        /** What is loaded, or to be done. */
        fun facts(text: String)

        /** What goes on, and figures. */
        fun stats(text: String)

        /** The whole output. */
        fun output(text: String)

        /** What comes behind the output. */
        fun append(text: String)

        /** A text for the input field. */
        fun draft(text: String)

        /** What a screen reader says: a result, once, and not all that changes. */
        fun say(text: String)
    }

    private var facts: String? = null
    private var stats = ""
    private var draft: String? = null
    private var said: String? = null
    private val output = StringBuilder()
    private val fresh = StringBuilder()
    private var isPosted = false
    private var view: View? = null

    /** The output. */
    val text: String get() = output.toString()

    /** How the output was made; null where no model made it. */
    var answer: Answer? = null

    /** Shows everything on a screen, and from now on what changes. What the screen restores by itself it has restored before. */
    fun attach(screen: View) {
        // A screen that only lost the focus shows it all, and what the user selected in it.
        if (view === screen) return
        flush()
        view = screen
        facts?.let(screen::facts)
        screen.stats(stats)
        screen.output(text)
        draft?.let(screen::draft)
        draft = null
        said?.let(screen::say)
        said = null
    }

    /** The screen goes. */
    fun detach(screen: View) {
        if (view === screen) view = null
    }

    /** See [View.facts]. */
    fun facts(text: String) {
        facts = text
        view?.facts(text)
    }

    /** See [View.stats]. */
    fun stats(text: String) {
        stats = text
        view?.stats(text)
    }

    /** See [View.output]; [made] says how. */
    fun output(text: String, made: Answer? = null) {
        answer = made
        fresh.setLength(0)
        output.setLength(0)
        output.append(text)
        view?.output(text)
    }

    /** See [View.append]; pieces that come close together are shown together. */
    fun append(piece: String) {
        output.append(piece)
        fresh.append(piece)
        if (isPosted) return
        isPosted = true
        later(Runnable { flush() }, FRAME_MILLIS)
    }

    /** See [View.draft]; what a screen has got is its own to keep. */
    fun draft(text: String) {
        val screen = view
        if (screen == null) draft = text else screen.draft(text)
    }

    /** See [View.say]; without a screen the last one waits for it. */
    fun say(text: String) {
        val screen = view
        if (screen == null) said = text else screen.say(text)
    }

    private fun flush() {
        isPosted = false
        if (fresh.isEmpty()) return
        val text = fresh.toString()
        fresh.setLength(0)
        view?.append(text)
    }
}
