package dev.heliumedge.app

import android.app.Activity
import android.view.View
import android.widget.Button
import android.widget.EditText
import android.widget.TextView
import dev.heliumedge.core.ChatLabels
import dev.heliumedge.core.ChatListener
import dev.heliumedge.core.ChatSession
import dev.heliumedge.core.ChatTurn
import dev.heliumedge.core.GenerationStats
import dev.heliumedge.core.LoadedBundle
import dev.heliumedge.core.Settings
import dev.heliumedge.core.StopSignal

/** The views of a conversation, which a [ChatSession] holds; shown in place of those of a text while there is one. */
class ChatPanel(private val activity: Activity, private val screen: Screen) {
    /** What the rest of the screen does for it; any thread. */
    interface Screen {
        /** Runs on the main thread. */
        fun show(block: () -> Unit)

        /** Takes the place of the output. */
        fun output(text: String)

        /** Goes behind the output. */
        fun append(text: String)

        /** Shows the figures of an answer. */
        fun stats(stats: GenerationStats)
    }

    private val labels = ChatLabels(
        activity.getString(R.string.speaker_system), activity.getString(R.string.speaker_user),
        activity.getString(R.string.speaker_model),
    ) { activity.getString(R.string.forgotten, it) }

    @Volatile
    private var kept: ChatSession? = null

    @Volatile
    private var isOpen = false

    /** The conversation; null while the screen is that of a text. */
    val session: ChatSession? get() = if (isOpen) kept else null

    /** Begins a conversation with a bundle, or goes on with the one before; one that cannot chat refuses by name. */
    fun open(bundle: LoadedBundle) {
        val current = kept ?: ChatSession(bundle, labels).also { it.reset(text(R.id.system)) }
        kept = current
        isOpen = true
        screen.output(current.transcript())
    }

    /** Back to texts; the conversation is kept. */
    fun close() {
        isOpen = false
    }

    /** Ends the conversation: its bundle is gone. */
    fun end() {
        isOpen = false
        kept = null
    }

    /** Forgets all turns and takes the system message that stands in its field. */
    fun startAnew() {
        val current = session ?: return
        current.reset(text(R.id.system))
        screen.output(current.transcript())
        update(busy = false)
    }

    /** Goes on with the same bundle, loaded again; another one, or one that cannot chat, ends the conversation. */
    fun reloaded(bundle: LoadedBundle, same: Boolean) {
        if (same) kept = kept?.let { ChatSession(bundle, labels, it) } else end()
    }

    /** Answers what is written. */
    fun say(session: ChatSession, settings: Settings, stop: StopSignal, message: String) {
        val before = session.turns
        screen.show { view<EditText>(R.id.prompt).setText("") }
        try {
            answer { stats, listener -> session.say(message, settings, stop, stats, listener) }
        } finally {
            // What was refused, or stopped before it began, is there to be sent again; unless the next one is written.
            if (session.turns === before) screen.show { if (text(R.id.prompt).isEmpty()) view<EditText>(R.id.prompt).setText(message) }
        }
    }

    /** Answers the last message again. */
    fun regenerate(session: ChatSession, settings: Settings, stop: StopSignal) {
        answer { stats, listener -> session.regenerate(settings, stop, stats, listener) }
    }

    private fun answer(turn: (GenerationStats, ChatListener) -> ChatTurn) {
        val stats = GenerationStats()
        val listener = object : ChatListener {
            override fun onTranscript(text: String) = screen.show { screen.output(text) }

            override fun onPiece(piece: String) {
                screen.show { screen.append(piece) }
                screen.stats(stats)
            }
        }
        turn(stats, listener)
        screen.stats(stats)
    }

    /** Shows what belongs to a conversation, or hides it. */
    fun update(busy: Boolean) {
        val current = session
        val visibility = if (current == null) View.GONE else View.VISIBLE
        for (id in listOf(R.id.system, R.id.chat_buttons)) view<View>(id).visibility = visibility
        view<View>(R.id.new_conversation).isEnabled = !busy
        view<View>(R.id.regenerate).isEnabled = !busy && current?.canRegenerate == true
        view<TextView>(R.id.prompt).setHint(if (current == null) R.string.prompt_hint else R.string.message_hint)
        view<Button>(R.id.chat).setText(if (current == null) R.string.chat else R.string.continue_text)
        if (current != null && !busy) view<Button>(R.id.run).setText(R.string.send)
    }

    private fun text(id: Int): String = view<EditText>(id).text.toString()

    private fun <T : View> view(id: Int): T = activity.findViewById(id)
}
