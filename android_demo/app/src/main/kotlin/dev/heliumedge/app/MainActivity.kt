package dev.heliumedge.app

import android.app.Activity
import android.app.AlertDialog
import android.content.ClipData
import android.content.ClipboardManager
import android.content.ComponentCallbacks2
import android.content.Context
import android.content.Intent
import android.os.Bundle
import android.view.View
import android.view.WindowManager
import android.widget.Button
import android.widget.EditText
import android.widget.ScrollView
import android.widget.TextView
import dev.heliumedge.core.ChatSession
import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.NotEnoughMemoryException
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.RemoteBenchmark
import dev.heliumedge.core.SessionObserver
import dev.heliumedge.core.StorageException
import dev.heliumedge.core.named
import java.io.File

private const val PICK_FOLDER = 1
private const val EXTRA_BUNDLE = "bundle"
private const val EXTRA_BENCHMARK = "benchmark"
private const val BENCHMARK_ORDERS = "dev.heliumedge.app.BenchmarkOrders"

/** The one screen: a bundle, a text or a conversation, what the model makes of it, and how fast. */
class MainActivity : Activity() {
    private lateinit var model: Model
    private lateinit var settings: SettingsStore
    private lateinit var words: Words
    private lateinit var chat: ChatPanel
    private lateinit var work: Work
    private lateinit var permission: NotificationPermission

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(R.layout.activity_main)
        model = Model.of(this)
        settings = SettingsStore(getSharedPreferences("settings", Context.MODE_PRIVATE))
        words = Words(applicationContext, model.device)
        chat = ChatPanel(this, model.chat)
        work = Work(applicationContext, model, settings, words, chat.labels())
        permission = NotificationPermission(this, settings)
        onClick(R.id.open, ::chooseBundle)
        onClick(R.id.import_bundle) { startActivityForResult(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), PICK_FOLDER) }
        onClick(R.id.settings, ::editSettings)
        onClick(R.id.about) { show(R.string.about, About(this).text(model.session.loaded?.manifest)) }
        onClick(R.id.self_test, work::selfTest)
        onClick(R.id.benchmark, ::chooseBenchmark)
        onClick(R.id.chat, ::toggleChat)
        onClick(R.id.regenerate) { work.answer(null) }
        onClick(R.id.edit, ::editMessage)
        onClick(R.id.new_conversation, ::startAnew)
        onClick(R.id.copy) { copy(model.screen.text) }
        onClick(R.id.report, ::report)
        onClick(R.id.save_cache, work::saveCache)
        onClick(R.id.load_cache, work::loadCache)
        onClick(R.id.run) { if (model.session.isBusy) model.session.stop() else runText() }
        // An intent is an order for once: neither a rotated screen nor one that comes back carries it out again.
        if (savedInstanceState == null) take(intent)
    }

    override fun onStart() {
        super.onStart()
        model.screen.attach(screen)
        model.session.observer = observer
        observer.onBusy(model.session.isBusy)
    }

    override fun onStop() {
        super.onStop()
        model.screen.detach(screen)
        if (model.session.observer === observer) model.session.observer = null
        // Text that nobody sees costs battery; an import goes on, and so does a screen that is only turned.
        if (!isChangingConfigurations && !work.isImporting) model.session.stop()
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        take(intent)
    }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND && !work.isImporting) work.unload()
    }

    @Deprecated("The replacement needs a library that the app does without.")
    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        val tree = data?.data ?: return
        if (requestCode != PICK_FOLDER || resultCode != RESULT_OK) return
        work.import(TreeSource(contentResolver, tree))
        if (work.isImporting) permission.askOnce()
    }

    override fun onRequestPermissionsResult(requestCode: Int, permissions: Array<String>, grantResults: IntArray) {
        permission.answered(requestCode, grantResults)
    }

    // -- bundles

    private fun take(intent: Intent) = guarded {
        setIntent(Intent())
        val folder = intent.getStringExtra(EXTRA_BUNDLE)?.let(model.store::bundle)
        val id = intent.getStringExtra(EXTRA_BENCHMARK)
        when {
            folder == null -> offerLast()
            id == null -> open(folder)
            // Any app may start the screen; only what the shell may start asks for minutes of full load.
            intent.component?.className == BENCHMARK_ORDERS && RemoteBenchmark.isId(id) -> work.measure(folder, intent, id)
        }
    }

    private fun offerLast() {
        if (model.session.loaded != null || model.session.isBusy) return
        val last = settings.lastBundle?.let(model.store::bundle) ?: return
        model.screen.facts(getString(R.string.last_bundle, last.name))
    }

    private fun chooseBundle() = guarded {
        val found = model.store.bundles().sortedBy { it.name != settings.lastBundle }
        if (found.isEmpty()) {
            model.screen.output(getString(R.string.no_bundles_found))
        } else {
            AlertDialog.Builder(this)
                .setItems(found.map { it.name }.toTypedArray<CharSequence>()) { _, index -> guarded { open(found[index]) } }
                .show()
        }
    }

    private fun open(folder: File) {
        if (model.guard.suspect() != folder.name) {
            // Asked for by the computer while something runs: not dropped without a word.
            if (!work.open(folder)) observer.onError(work.busy())
            return
        }
        val why = model.device.lastExit()?.let { " ($it)" }.orEmpty()
        ask(getString(R.string.suspect, folder.name) + why, R.string.load_anyway) {
            model.guard.forget()
            work.open(folder)
        }
    }

    // -- work

    private fun runText() {
        val ready = model.session.loaded ?: return
        val prompt = view<EditText>(R.id.prompt)
        val text = prompt.text.toString()
        when {
            model.chat.session != null -> if (work.answer(text) && text.isNotBlank()) prompt.setText("")
            ready.classifier == null -> work.generate(text)
            else -> work.classify(text)
        }
    }

    private fun toggleChat() = guarded {
        val ready = model.session.loaded ?: return@guarded
        if (model.chat.session == null) {
            model.screen.output(model.chat.open(ready, chat.labels(), chat.system).transcript())
        } else {
            model.chat.close()
        }
        observer.onBusy(false)
    }

    private fun editMessage() {
        val session = model.chat.session ?: return
        if (session.editing == null) {
            // Work may have begun while the list was open, as at the order of a computer.
            chat.chooseMessage(session) { turn -> guarded { if (!model.session.isBusy) rewrite(session, session.startEdit(turn)) } }
        } else {
            session.cancelEdit()
            rewrite(session, "")
        }
    }

    private fun rewrite(session: ChatSession, text: String) {
        view<EditText>(R.id.prompt).setText(text)
        model.screen.output(session.transcript())
        observer.onBusy(false)
    }

    private fun startAnew() {
        val session = model.chat.session ?: return
        session.reset(chat.system)
        model.screen.output(session.transcript())
        observer.onBusy(false)
    }

    private fun chooseBenchmark() {
        val kinds = arrayOf<CharSequence>(getString(R.string.benchmark_threads), getString(R.string.benchmark_sustained))
        AlertDialog.Builder(this).setItems(kinds) { _, index -> if (index == 0) work.benchmark() else work.sustain() }.show()
    }

    // -- the screen

    private fun editSettings() = SettingsDialog(this, settings, words).show { reload ->
        if (reload) model.session.loaded?.let { guarded { open(it.bundle.folder) } }
    }

    /** What Play asks of apps that generate: an answer can be reported, here with what is needed to see it again. */
    private fun report() {
        val text = About(this).report(model.session.loaded, view<EditText>(R.id.prompt).text.toString(), model.screen.text)
        AlertDialog.Builder(this)
            .setTitle(R.string.report)
            .setMessage(getString(R.string.report_what))
            .setPositiveButton(R.string.send) { _, _ -> guarded { startActivity(Intent.createChooser(About.sending(text), getString(R.string.report))) } }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private fun copy(text: String) {
        val clipboard = getSystemService(Context.CLIPBOARD_SERVICE) as ClipboardManager
        clipboard.setPrimaryClip(ClipData.newPlainText("helium-edge", text))
    }

    private val screen = object : ScreenText.View {
        override fun facts(text: String) {
            view<TextView>(R.id.facts).text = text
        }

        override fun stats(text: String) {
            view<TextView>(R.id.stats).text = text
        }

        override fun output(text: String) {
            view<TextView>(R.id.output).text = text
        }

        override fun append(text: String) {
            val scroll = view<ScrollView>(R.id.scroll)
            // Who scrolled up reads there.
            val follows = !scroll.canScrollVertically(1)
            view<TextView>(R.id.output).append(text)
            if (follows) scroll.post { scroll.scrollTo(0, scroll.getChildAt(0).height) }
        }

        override fun draft(text: String) {
            val prompt = view<EditText>(R.id.prompt)
            // What was written meanwhile stays.
            if (prompt.text.isEmpty()) prompt.setText(text)
        }
    }

    private val observer = object : SessionObserver {
        override fun onBusy(busy: Boolean) {
            val flag = WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON
            if (busy) window.addFlags(flag) else window.clearFlags(flag)
            val ready = model.session.loaded
            val decodes = ready?.decoder != null
            view<View>(R.id.busy).visibility = if (busy) View.VISIBLE else View.GONE
            for (id in listOf(R.id.open, R.id.import_bundle, R.id.settings)) view<View>(id).isEnabled = !busy
            for (id in listOf(R.id.self_test, R.id.benchmark, R.id.chat, R.id.save_cache, R.id.load_cache)) view<View>(id).isEnabled = !busy && decodes
            val run = view<Button>(R.id.run)
            run.isEnabled = busy || ready != null
            run.setText(if (busy) R.string.stop else if (ready?.classifier != null) R.string.classify else R.string.generate)
            chat.update(busy)
        }

        override fun onError(error: HeliumException) {
            // Read aloud by a screen reader, as the whole of the output is not.
            model.screen.stats(words.headline(error))
            val folder = work.lastTried
            if (error is NotEnoughMemoryException && folder != null && model.session.loaded == null) {
                ask(words.error(error), R.string.load_anyway) { work.open(folder, anyway = true) }
            } else if (model.chat.session == null) {
                model.screen.output(words.error(error))
            } else {
                // A conversation stays on the screen.
                model.screen.append("\n\n${words.error(error)}")
            }
        }
    }

    /** Whatever goes wrong on the main thread is a message as well: storage that is gone, a bundle that cannot chat. */
    private inline fun guarded(block: () -> Unit) {
        try {
            block()
        } catch (error: HeliumException) {
            observer.onError(error)
        } catch (error: SecurityException) {
            observer.onError(StorageException(Phrase.CANNOT_READ.with(model.folder, error.message.orEmpty()), error))
        } catch (error: RuntimeException) {
            // No app that picks folders or takes texts, or a text that is too long to be handed on.
            observer.onError(named(error))
        }
    }

    private fun ask(message: String, yes: Int, then: () -> Unit) {
        AlertDialog.Builder(this)
            .setMessage(message)
            .setPositiveButton(yes) { _, _ -> guarded(then) }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private fun show(title: Int, text: String) {
        AlertDialog.Builder(this).setTitle(title).setMessage(text).setNegativeButton(R.string.close, null).show()
    }

    private fun onClick(id: Int, action: () -> Unit) = view<View>(id).setOnClickListener { guarded(action) }

    private fun <T : View> view(id: Int): T = findViewById(id)
}
