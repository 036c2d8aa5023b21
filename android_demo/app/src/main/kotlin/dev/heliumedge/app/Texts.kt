package dev.heliumedge.app

import android.content.Context
import dev.heliumedge.core.ChatRole
import dev.heliumedge.core.ChatSession
import dev.heliumedge.core.ChatState
import dev.heliumedge.core.GenerationStats
import dev.heliumedge.core.LoadedBundle
import dev.heliumedge.core.SelfTest
import dev.heliumedge.core.Settings
import java.util.Locale

private const val SHOWN_LABELS = 5
private const val FIGURES_NANOS = 1_000_000_000L

/** What the loaded bundle makes of texts, in the model's thread; false where there is work already. */
class Texts(private val context: Context, private val model: Model) {
    private val session = model.session
    private val screen = model.screen
    private val figuresShown = Seldom(FIGURES_NANOS)

    /** The language that the conversation is shown in. */
    @Volatile
    private var language = ""

    /** Continues a text; what the cache holds of it is not run again. */
    fun generate(prompt: String): Boolean = session.start { stop ->
        val ready = session.ready()
        val chosen = model.settings.load()
        val answer = Answer.by(ready, prompt, chosen)
        show { screen.output(prompt, answer) }
        val stats = GenerationStats()
        val text = StringBuilder()
        ready.generate(prompt, chosen, stop, stats, reuse = true) { _, piece ->
            text.append(piece)
            show { screen.append(piece) }
            figures(stats)
        }
        finish(stats, text)
    }

    /** Answers a message, or the last one again where it is null; false also where there is no conversation. */
    fun answer(message: String?): Boolean {
        val conversation = model.chat.session ?: return false
        val before = conversation.turns
        val shownBefore = screen.answer
        return session.start { stop ->
            val chosen = model.settings.load()
            val asked = message ?: before.lastOrNull { it.role == ChatRole.USER }?.content.orEmpty()
            try {
                model.chat.answer(conversation, message, chosen, stop, Shown(session.ready(), asked, chosen.copy(seed = conversation.nextSeed(chosen))))
            } finally {
                // Without an answer the message is no part of the conversation, and nobody wants to write it again.
                if (conversation.turns === before) {
                    show {
                        screen.answer = shownBefore
                        if (message != null) screen.draft(message)
                    }
                }
            }
        }
    }

    private inner class Shown(ready: LoadedBundle, asked: String, drawn: Settings) : ChatState.Listener {
        private val answer = Answer.by(ready, asked, drawn)
        private val said = StringBuilder()

        override fun onTranscript(text: String) = show { screen.output(text, answer) }

        override fun onPiece(piece: String) {
            said.append(piece)
            show { screen.append(piece) }
        }

        override fun onStats(stats: GenerationStats) = if (stats.stopReason == null) figures(stats) else finish(stats, said)
    }

    /** Begins a conversation, or goes back to it. */
    fun openChat(ready: LoadedBundle, system: String) {
        language = model.words.language()
        screen.output(model.chat.open(ready, model.words.labels(), system).transcript())
    }

    /** The conversation goes on with a bundle that was loaded; within work. */
    fun goOn(ready: LoadedBundle) {
        language = model.words.language()
        model.chat.reloaded(ready, model.words.labels())
        show { model.chat.session?.let(::transcript) }
    }

    /** Says a conversation in the language that the device has now; while there is work it keeps that of before. */
    fun translate() {
        val now = model.words.language()
        if (now == language || session.isBusy) return
        val ready = session.loaded ?: return
        language = now
        model.chat.reloaded(ready, model.words.labels())
        model.chat.session?.let(::transcript)
    }

    private fun transcript(conversation: ChatSession) = screen.output(conversation.transcript(), screen.answer)

    /** Labels a text. */
    fun classify(text: String): Boolean = session.start {
        val ready = session.ready()
        val classifier = ready.classifier ?: return@start
        val ids = ready.tokenizer.encode(text)
        val rows = classifier.classify(ids).mapIndexed { index, scores ->
            val token = if (classifier.perToken) "${ready.tokenizer.decode(intArrayOf(ids[index]))}: " else ""
            token + scores.take(SHOWN_LABELS).joinToString { String.format(Locale.ROOT, "%s %.3f", it.name, it.score) }
        }
        result(rows.joinToString("\n"))
    }

    /** Replays the run that the exporter recorded. */
    fun selfTest(): Boolean = session.start { stop ->
        val ready = session.ready()
        val decoder = ready.decoder ?: return@start
        val found = SelfTest(ready.manifest, ready.tokenizer, decoder).run(stop)
        result(context.getString(R.string.self_test_on, ready.engineName, model.words.say(found.said)))
    }

    /** Keeps what the cache holds, for a later start. */
    fun saveCache(): Boolean = session.start {
        val ready = session.ready()
        val tokens = ready.saveCache(model.storage.cacheOf(ready.bundle))
        tell(context.getString(R.string.cache_saved, tokens))
    }

    /** Takes what was kept: a text or a conversation that begins with it starts at once. */
    fun loadCache(): Boolean = session.start {
        val ready = session.ready()
        val tokens = ready.loadCache(model.storage.cacheOf(ready.bundle))
        tell(context.getString(R.string.cache_loaded, tokens))
    }

    private fun result(text: String) = show {
        screen.output(text)
        screen.say(text)
    }

    private fun tell(text: String) = show {
        screen.stats(text)
        screen.say(text)
    }

    /** Figures of a text that goes on, seldom enough to be read. */
    private fun figures(stats: GenerationStats) {
        if (!figuresShown.isDue()) return
        val line = model.words.stats(stats)
        show { screen.stats(line) }
    }

    private fun finish(stats: GenerationStats, text: CharSequence) {
        val line = model.words.stats(stats)
        val said = "$text ${model.words.ending(stats)}".trim()
        show {
            screen.stats(line)
            screen.say(said)
        }
    }

    private fun show(block: () -> Unit) = session.deliver(block)
}
