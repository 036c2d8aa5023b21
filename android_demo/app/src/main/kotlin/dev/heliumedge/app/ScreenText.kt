package dev.heliumedge.app

import android.os.Handler

/** How often new text is laid out: each time costs as much as all the text there is. */
private const val FRAME_MILLIS = 50L

/** What the screen shows, kept without one; the main thread alone touches it. */
class ScreenText(private val main: Handler) {
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
    }

    private var facts: String? = null
    private var stats = ""
    private var draft: String? = null
    private val output = StringBuilder()
    private val fresh = StringBuilder()
    private var isPosted = false
    private var view: View? = null

    /** The output. */
    val text: String get() = output.toString()

    /** Shows everything on a screen, and from now on what changes. */
    fun attach(screen: View) {
        flush()
        view = screen
        facts?.let(screen::facts)
        screen.stats(stats)
        screen.output(text)
        draft?.let(screen::draft)
        draft = null
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

    /** See [View.output]. */
    fun output(text: String) {
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
        main.postDelayed({ flush() }, FRAME_MILLIS)
    }

    /** See [View.draft]; what a screen has got is its own to keep. */
    fun draft(text: String) {
        val screen = view
        if (screen == null) draft = text else screen.draft(text)
    }

    private fun flush() {
        isPosted = false
        if (fresh.isEmpty()) return
        val text = fresh.toString()
        fresh.setLength(0)
        view?.append(text)
    }
}
