package dev.heliumedge.app

import android.app.Activity
import android.content.ClipData
import android.content.ClipboardManager
import android.content.Context
import android.view.View
import android.view.WindowManager
import android.widget.Button
import android.widget.EditText
import dev.heliumedge.core.ChatSession
import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.SessionObserver
import dev.heliumedge.core.StorageException
import dev.heliumedge.core.named

/** The views of the one screen, and what a tap on each does. */
class MainScreen(private val activity: Activity, private val model: Model, pickFolder: () -> Unit) : SessionObserver {
    private val chat = ChatPanel(activity, model.chat)
    private val asking = Asking(activity, model, ::guarded) { session, turn -> rewrite(session, session.startEdit(turn)) }
    private val shown = ShownText(activity)
    private var action = RunAction.GENERATE

    init {
        onClick(R.id.open) { unlessBusy(model.loading.choose()) }
        onClick(R.id.import_bundle, pickFolder)
        onClick(R.id.settings) { model.questions.ask(Question.EditSettings(Draft(model.settings::text))) }
        onClick(R.id.about) { model.questions.ask(Question.About()) }
        onClick(R.id.self_test) { unlessBusy(model.texts.selfTest()) }
        onClick(R.id.benchmark) { model.questions.ask(Question.WhichBenchmark()) }
        onClick(R.id.chat, ::toggleChat)
        onClick(R.id.regenerate) { unlessBusy(model.texts.answer(null)) }
        onClick(R.id.edit, ::editMessage)
        onClick(R.id.new_conversation, ::startAnew)
        onClick(R.id.copy) { copy(model.screen.text) }
        onClick(R.id.report) { model.questions.ask(Question.Report(Draft { "" }, model.screen.text, model.screen.answer)) }
        onClick(R.id.save_cache) { unlessBusy(model.texts.saveCache()) }
        onClick(R.id.load_cache) { unlessBusy(model.texts.loadCache()) }
        onClick(R.id.run, ::run)
    }

    // -- life of the screen

    /** It can be seen. */
    fun onStart() {
        model.session.observer = this
        asking.attach()
        model.texts.translate()
        onBusy(model.session.isBusy)
    }

    /** It is in front, and has restored what its views keep by themselves, which would take the place of what is shown now. */
    fun onResume() = model.screen.attach(shown)

    /** It is hidden. */
    fun onStop() {
        asking.detach()
        model.screen.detach(shown)
        if (model.session.observer === this) model.session.observer = null
    }

    /** It goes. */
    fun onDestroy() = asking.close()

    /** Whatever goes wrong on the main thread is a message as well: storage that is gone, a bundle that cannot chat. */
    fun guarded(block: () -> Unit) {
        try {
            block()
        } catch (error: HeliumException) {
            onError(error)
        } catch (error: SecurityException) {
            onError(StorageException(Phrase.CANNOT_READ.with(model.folder, error.message.orEmpty()), error))
        } catch (error: RuntimeException) {
            // No app that picks folders or takes texts, or a text that is too long to be handed on.
            onError(named(error))
        }
    }

    // -- what taps do

    private fun run() {
        val prompt = view<EditText>(R.id.prompt)
        val text = prompt.text.toString()
        when (action) {
            RunAction.STOP -> model.session.stop()
            RunAction.GENERATE -> unlessBusy(model.texts.generate(text))
            RunAction.CLASSIFY -> unlessBusy(model.texts.classify(text))
            RunAction.SEND -> {
                unlessBusy(model.texts.answer(text))
                if (text.isNotBlank()) prompt.setText("")
            }
        }
    }

    private fun toggleChat() {
        val ready = model.session.loaded ?: return
        if (model.session.isBusy) throw busy()
        if (model.chat.session == null) model.texts.openChat(ready, chat.system) else model.chat.close()
        onBusy(false)
    }

    private fun editMessage() {
        val session = model.chat.session ?: return
        if (session.editing == null) {
            model.questions.ask(Question.WhichMessage())
        } else {
            session.cancelEdit()
            rewrite(session, "")
        }
    }

    private fun rewrite(session: ChatSession, text: String) {
        view<EditText>(R.id.prompt).setText(text)
        model.screen.output(session.transcript())
        onBusy(false)
    }

    private fun startAnew() {
        val session = model.chat.session ?: return
        session.reset(chat.system)
        model.screen.output(session.transcript())
        onBusy(false)
    }

    private fun copy(text: String) {
        val clipboard = activity.getSystemService(Context.CLIPBOARD_SERVICE) as ClipboardManager
        clipboard.setPrimaryClip(ClipData.newPlainText("helium-edge", text))
    }

    /** Work that could not begin says so: other work began just before the tap. */
    private fun unlessBusy(started: Boolean) {
        if (!started) throw busy()
    }

    // -- what the session tells

    override fun onBusy(busy: Boolean) {
        val flag = WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON
        if (busy) activity.window.addFlags(flag) else activity.window.clearFlags(flag)
        val ready = model.session.loaded
        val decodes = ready?.decoder != null
        view<View>(R.id.busy).visibility = if (busy) View.VISIBLE else View.GONE
        for (id in listOf(R.id.open, R.id.import_bundle, R.id.settings)) view<View>(id).isEnabled = !busy
        for (id in listOf(R.id.self_test, R.id.benchmark, R.id.chat, R.id.save_cache, R.id.load_cache)) view<View>(id).isEnabled = !busy && decodes
        action = RunAction.of(busy, model.chat.session != null, ready?.classifier != null)
        val run = view<Button>(R.id.run)
        run.isEnabled = busy || ready != null
        run.setText(action.text)
        chat.update(busy)
    }

    override fun onError(error: HeliumException) {
        // The output belongs to what runs.
        if (error.said.phrase == Phrase.BUSY) return model.questions.ask(Question.Told(error))
        model.screen.stats(model.words.headline(error))
        model.screen.say(model.words.spoken(error))
        val question = if (model.session.loaded == null) Question.of(error, model.loading.tried) else null
        if (question != null) {
            model.questions.ask(question)
        } else if (model.chat.session == null) {
            model.screen.output(model.words.error(error))
        } else {
            // A conversation stays on the screen.
            model.screen.append("\n\n${model.words.error(error)}")
        }
    }

    private fun onClick(id: Int, action: () -> Unit) = view<View>(id).setOnClickListener { guarded(action) }

    private fun <T : View> view(id: Int): T = activity.findViewById(id)
}
