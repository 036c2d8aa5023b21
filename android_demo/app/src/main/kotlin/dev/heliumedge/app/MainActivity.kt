package dev.heliumedge.app

import android.app.Activity
import android.app.AlertDialog
import android.content.ClipData
import android.content.ClipboardManager
import android.content.ComponentCallbacks2
import android.content.Context
import android.content.Intent
import android.os.Bundle
import android.system.Os
import android.view.View
import android.view.WindowManager
import android.widget.Button
import android.widget.EditText
import android.widget.ScrollView
import android.widget.TextView
import dev.heliumedge.core.Benchmark
import dev.heliumedge.core.BenchmarkPlan
import dev.heliumedge.core.BenchmarkRequest
import dev.heliumedge.core.BundleImporter
import dev.heliumedge.core.BundleLoader
import dev.heliumedge.core.CrashGuard
import dev.heliumedge.core.GenerationStats
import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.InvalidRequestException
import dev.heliumedge.core.LoadedBundle
import dev.heliumedge.core.MANIFEST_NAME
import dev.heliumedge.core.MemoryEstimate
import dev.heliumedge.core.RemoteBenchmark
import dev.heliumedge.core.SelfTest
import dev.heliumedge.core.Settings
import dev.heliumedge.core.StopSignal
import dev.heliumedge.core.VerificationLog
import java.io.File
import java.util.Locale

private const val PICK_FOLDER = 1
private const val EXTRA_BUNDLE = "bundle"
private const val EXTRA_BENCHMARK = "benchmark"

/** The one screen: a bundle, a text, what the model makes of it, and how fast. */
class MainActivity : Activity() {
    private lateinit var device: Device
    private lateinit var settings: SettingsStore
    private lateinit var guard: CrashGuard
    private lateinit var loader: BundleLoader
    private lateinit var bundles: File
    private lateinit var chat: ChatPanel
    private val engine = EngineThread(::onBusy, ::onError)

    /** Written by the engine's thread while it is busy, read by the main thread while it is not. */
    @Volatile
    private var loaded: LoadedBundle? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        Os.setenv("ORT_DISABLE_TELEMETRY", "1", false) // before ONNX Runtime is loaded
        setContentView(R.layout.activity_main)
        device = Device(this)
        chat = ChatPanel(this, chatScreen)
        settings = SettingsStore(getSharedPreferences("settings", Context.MODE_PRIVATE))
        guard = CrashGuard(File(filesDir, "loading.txt"))
        // The app's own folder on shared storage, where `helium-edge push` writes; without one, private storage.
        bundles = File(getExternalFilesDir(null) ?: filesDir, "bundles").apply { mkdirs() }
        val log = VerificationLog(File(filesDir, "verified.txt"))
        loader = BundleLoader(Engines.factories, SharedMemoryAllocator, guard, log, device::availableMemory)
        onClick(R.id.open, ::chooseBundle)
        onClick(R.id.import_bundle) { startActivityForResult(Intent(Intent.ACTION_OPEN_DOCUMENT_TREE), PICK_FOLDER) }
        onClick(R.id.settings, ::editSettings)
        onClick(R.id.self_test, ::selfTest)
        onClick(R.id.benchmark, ::benchmark)
        onClick(R.id.chat, ::toggleChat)
        onClick(R.id.regenerate, ::regenerate)
        onClick(R.id.new_conversation) { chat.startAnew() }
        onClick(R.id.copy, ::copyOutput)
        onClick(R.id.run) { if (engine.isBusy) engine.stop() else runText() }
        openFrom(intent)
    }

    override fun onNewIntent(intent: Intent) {
        super.onNewIntent(intent)
        openFrom(intent)
    }

    override fun onStop() {
        super.onStop()
        engine.stop()
    }

    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) unload()
    }

    override fun onDestroy() {
        super.onDestroy()
        engine.finish { loaded?.close() }
    }

    @Deprecated("The replacement needs a library that the app does without.")
    override fun onActivityResult(requestCode: Int, resultCode: Int, data: Intent?) {
        val tree = data?.data ?: return
        if (requestCode != PICK_FOLDER || resultCode != RESULT_OK) return
        engine.start { stop ->
            val source = TreeSource(contentResolver, tree)
            val folder = BundleImporter(bundles).import(source, bundles.usableSpace, progress("copied", stop))
            if (folder != null) load(folder, stop)
        }
    }

    // -- bundles

    private fun openFrom(intent: Intent) {
        val name = intent.getStringExtra(EXTRA_BUNDLE) ?: return
        // From another app it could be any text: only a folder of ours is opened.
        val folder = bundles.listFiles()?.firstOrNull { it.name == name } ?: return
        val id = intent.getStringExtra(EXTRA_BENCHMARK)
        if (id == null) open(folder) else if (RemoteBenchmark.isId(id)) measure(folder, intent, id)
    }

    /** What `helium-edge bench --adb` asks for; the host waits for the document, so that a failure is one too. */
    private fun measure(folder: File, intent: Intent, id: String) = engine.start { stop ->
        val document = try {
            val request = BenchmarkRequest.parse { intent.getStringExtra(it) }
            val stored = settings.load()
            val chosen = if (request.threads == 0) stored else stored.copy(threads = request.threads)
            load(folder, stop, chosen)
            loaded?.let { ready ->
                RemoteBenchmark(residentBytes = device::residentBytes).run(ready, request, device.facts(chosen.threads), stop) { round ->
                    engine.show { stats("round ${round + 1} of ${request.warmup + request.repeats}") }
                }
            } ?: RemoteBenchmark.failure(stopped())
        } catch (error: HeliumException) {
            RemoteBenchmark.failure(error)
        }
        RemoteBenchmark.publish(document, File(getExternalFilesDir(null) ?: filesDir, "bench"), id)
        engine.show { output(document) }
    }

    private fun stopped() = InvalidRequestException("the benchmark was stopped on the phone", "Leave the app in front, with the screen on.")

    private fun chooseBundle() {
        val found = bundles.listFiles().orEmpty().filter { File(it, MANIFEST_NAME).isFile }.sortedBy { it.name }
        if (found.isEmpty()) {
            output(getString(R.string.no_bundles_found))
            return
        }
        AlertDialog.Builder(this)
            .setItems(found.map { it.name }.toTypedArray<CharSequence>()) { _, index -> open(found[index]) }
            .show()
    }

    private fun open(folder: File) {
        if (guard.suspect() != folder.name) {
            engine.start { stop -> load(folder, stop) }
            return
        }
        AlertDialog.Builder(this)
            .setMessage(getString(R.string.suspect, folder.name))
            .setPositiveButton(R.string.load_anyway) { _, _ ->
                guard.forget()
                open(folder)
            }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private fun load(folder: File, stop: StopSignal, chosen: Settings = settings.load()) {
        val before = loaded?.manifest?.name
        loaded?.close()
        loaded = null
        val (bundle, estimate) = loader.inspect(folder, chosen)
        val name = bundle.manifest.name
        engine.show { facts("$name: needs ${estimate.describe()}, ${MemoryEstimate.megabytes(device.availableMemory())} are free") }
        val ready = loader.load(folder, chosen, progress("checked", stop)) ?: return
        loaded = ready
        chat.reloaded(ready, same = name == before)
        engine.show { facts("$name on ${ready.engineName}: ${estimate.describe()}") }
    }

    private fun unload() = engine.start {
        loaded?.close()
        loaded = null
        engine.show {
            chat.end()
            facts(getString(R.string.no_bundle))
        }
    }

    private fun progress(verb: String, stop: StopSignal): (Long, Long) -> Boolean {
        var shown = -1L
        return { done, total ->
            val percent = if (total == 0L) 100 else 100 * done / total
            if (percent != shown) {
                shown = percent
                engine.show { stats("$verb $percent % of ${MemoryEstimate.megabytes(total)}") }
            }
            !stop.isRequested
        }
    }

    // -- work

    private fun runText() {
        val ready = loaded ?: return
        val text = view<EditText>(R.id.prompt).text.toString()
        val session = chat.session
        engine.start { stop ->
            when {
                session != null -> chat.say(session, settings.load(), stop, text)
                ready.classifier == null -> generate(ready, text, stop)
                else -> classify(ready, text)
            }
        }
    }

    private fun toggleChat() {
        val ready = loaded ?: return
        try {
            if (chat.session == null) chat.open(ready) else chat.close()
            onBusy(false)
        } catch (error: HeliumException) {
            onError(error)
        }
    }

    private fun regenerate() {
        val session = chat.session ?: return
        engine.start { stop -> chat.regenerate(session, settings.load(), stop) }
    }

    private val chatScreen = object : ChatPanel.Screen {
        override fun show(block: () -> Unit) = engine.show(block)

        override fun output(text: String) = this@MainActivity.output(text)

        override fun append(text: String) = this@MainActivity.append(text)

        override fun stats(stats: GenerationStats) = finish(stats)
    }

    private fun finish(stats: GenerationStats) {
        val reason = stats.stopReason?.let { "; ${it.name.lowercase(Locale.ROOT)}" }.orEmpty()
        val line = describe(stats) + reason
        engine.show { stats(line) }
    }

    private fun generate(ready: LoadedBundle, prompt: String, stop: StopSignal) {
        engine.show { output(prompt) }
        val stats = GenerationStats()
        ready.generate(prompt, settings.load(), stop, stats) { _, piece ->
            val line = describe(stats)
            engine.show {
                append(piece)
                stats(line)
            }
        }
        finish(stats)
    }

    private fun describe(stats: GenerationStats): String = String.format(
        Locale.ROOT, "first token %.2f s, prefill %.1f tok/s, decode %.1f tok/s, %d tokens, RSS %s",
        stats.firstTokenNanos / 1e9, stats.prefillTokensPerSecond, stats.decodeTokensPerSecond, stats.newTokens,
        MemoryEstimate.megabytes(device.residentBytes()),
    )

    private fun classify(ready: LoadedBundle, text: String) {
        val classifier = ready.classifier ?: return
        val ids = ready.tokenizer.encode(text)
        val rows = classifier.classify(ids).mapIndexed { index, scores ->
            val token = if (classifier.perToken) "${ready.tokenizer.decode(intArrayOf(ids[index]))}: " else ""
            token + scores.take(SHOWN_LABELS).joinToString { String.format(Locale.ROOT, "%s %.3f", it.name, it.score) }
        }
        engine.show { output(rows.joinToString("\n")) }
    }

    private fun selfTest() {
        val ready = loaded ?: return
        val decoder = ready.decoder ?: return
        engine.start { stop ->
            val result = SelfTest(ready.manifest, ready.tokenizer, decoder).run(stop)
            engine.show { output("Self-test on ${ready.engineName} ${result.message}") }
        }
    }

    private fun benchmark() {
        val ready = loaded ?: return
        val decoder = ready.decoder ?: return
        engine.start { stop ->
            val chosen = settings.load()
            val plan = BenchmarkPlan.fitting(chosen.contextOf(ready.manifest))
            val report = Benchmark(decoder).run(plan, stop) { repeat -> engine.show { stats("repeat $repeat of ${plan.repeats}") } }
            if (report != null) {
                val json = report.toJson(ready.manifest, ready.engineName, device.facts(chosen.threads))
                engine.show { output(json) }
            }
        }
    }

    // -- the screen

    private fun editSettings() {
        val form = layoutInflater.inflate(R.layout.dialog_settings, null)
        val fields = FIELDS.mapValues { (_, id) -> form.findViewById<EditText>(id) }
        fields.forEach { (key, field) -> field.setText(settings.text(key)) }
        AlertDialog.Builder(this)
            .setTitle(R.string.settings)
            .setView(form)
            .setPositiveButton(R.string.save) { _, _ ->
                try {
                    val before = settings.load()
                    settings.save(fields.mapValues { (_, field) -> field.text.toString() })
                    val now = settings.load()
                    // These are those of a loaded bundle, and its memory: load it again.
                    val same = listOf(before, now).map { listOf(it.runtime, it.threads, it.contextTokens) }.distinct().size == 1
                    if (!same) loaded?.let { open(it.bundle.folder) }
                } catch (error: HeliumException) {
                    onError(error)
                }
            }
            .setNegativeButton(R.string.cancel, null)
            .show()
    }

    private fun copyOutput() {
        val clipboard = getSystemService(Context.CLIPBOARD_SERVICE) as ClipboardManager
        clipboard.setPrimaryClip(ClipData.newPlainText("helium-edge", view<TextView>(R.id.output).text))
    }

    private fun onBusy(busy: Boolean) {
        if (busy) {
            window.addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        } else {
            window.clearFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON)
        }
        val ready = loaded
        for (id in listOf(R.id.open, R.id.import_bundle, R.id.settings)) view<View>(id).isEnabled = !busy
        for (id in listOf(R.id.self_test, R.id.benchmark, R.id.chat)) view<View>(id).isEnabled = !busy && ready?.decoder != null
        val run = view<Button>(R.id.run)
        run.isEnabled = busy || ready != null
        run.setText(if (busy) R.string.stop else if (ready?.classifier != null) R.string.classify else R.string.generate)
        chat.update(busy)
    }

    private fun onError(error: HeliumException) {
        val text = "${error.what}.\n\n${error.fix}"
        // A conversation stays on the screen.
        if (chat.session == null) output(text) else append("\n\n$text")
    }

    private fun facts(text: String) {
        view<TextView>(R.id.facts).text = text
    }

    private fun stats(text: String) {
        view<TextView>(R.id.stats).text = text
    }

    private fun output(text: String) {
        view<TextView>(R.id.output).text = text
    }

    private fun append(text: String) {
        view<TextView>(R.id.output).append(text)
        view<ScrollView>(R.id.scroll).fullScroll(View.FOCUS_DOWN)
    }

    private fun onClick(id: Int, action: () -> Unit) = view<View>(id).setOnClickListener { action() }

    private fun <T : View> view(id: Int): T = findViewById(id)

    private companion object {
        const val SHOWN_LABELS = 5

        /** Views of the settings, by the name of their field. */
        val FIELDS = mapOf(
            "runtime" to R.id.runtime,
            "threads" to R.id.threads,
            "context" to R.id.context,
            "temperature" to R.id.temperature,
            "top_k" to R.id.top_k,
            "top_p" to R.id.top_p,
            "min_p" to R.id.min_p,
            "repetition_penalty" to R.id.repetition_penalty,
            "no_repeat_ngram_size" to R.id.no_repeat_ngram_size,
            "suppress_tokens" to R.id.suppress_tokens,
            "stop_strings" to R.id.stop_strings,
            "max_new_tokens" to R.id.max_new_tokens,
            "max_length" to R.id.max_length,
            "seed" to R.id.seed,
        )
    }
}
