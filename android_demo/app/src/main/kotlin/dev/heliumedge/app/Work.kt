package dev.heliumedge.app

import android.content.Context
import android.content.Intent
import dev.heliumedge.core.Benchmark
import dev.heliumedge.core.BenchmarkPlan
import dev.heliumedge.core.BenchmarkRequest
import dev.heliumedge.core.BundleImporter
import dev.heliumedge.core.BundleSource
import dev.heliumedge.core.ChatLabels
import dev.heliumedge.core.ChatState
import dev.heliumedge.core.Clock
import dev.heliumedge.core.DeviceProbe
import dev.heliumedge.core.GenerationStats
import dev.heliumedge.core.HeliumException
import dev.heliumedge.core.InvalidRequestException
import dev.heliumedge.core.LoadedBundle
import dev.heliumedge.core.MemoryEstimate
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.RemoteBenchmark
import dev.heliumedge.core.SelfTest
import dev.heliumedge.core.Settings
import dev.heliumedge.core.StopSignal
import dev.heliumedge.core.SustainedBenchmark
import dev.heliumedge.core.named
import java.io.File
import java.util.Locale

private const val SHOWN_LABELS = 5
private const val FIGURES_NANOS = 1_000_000_000L

/** What the buttons do, in the model's thread; it writes to the kept screen and knows no views. */
class Work(
    private val context: Context,
    private val model: Model,
    private val settings: SettingsStore,
    private val words: Words,
    private val labels: ChatLabels,
) {
    private val session = model.session
    private val screen = model.screen

    /** Whether a bundle is being copied, which goes on in the background. */
    val isImporting: Boolean get() = importing

    /** The bundle that was tried last. */
    val lastTried: File? get() = tried

    /** Loads a bundle; false where there is work already. */
    fun open(folder: File, anyway: Boolean = false): Boolean = session.start { stop -> load(folder, stop, settings.load(), anyway) }

    /** Frees the model. */
    fun unload() {
        if (session.loaded == null && !session.isBusy) return
        session.startNext {
            val last = session.loaded?.bundle?.folder?.name
            model.chat.pause()
            session.release()
            show { screen.facts(if (last == null) context.getString(R.string.no_bundle) else context.getString(R.string.last_bundle, last)) }
        }
    }

    /** Copies a bundle and loads it; another app may be in front meanwhile. */
    fun import(source: BundleSource) {
        if (session.isBusy) return
        ImportService.begin(context)
        importing = true
        val started = session.start { stop ->
            val folder = try {
                val copied = progress(R.string.copied, stop) { percent -> ImportService.progress(percent) }
                BundleImporter(model.store).import(source, { needed -> model.device.freeBytes(model.folder, needed) }, copied)
            } finally {
                importing = false
                show { ImportService.end() }
            }
            if (folder != null) load(folder, stop, settings.load(), anyway = false)
        }
        if (!started) {
            importing = false
            ImportService.end()
        }
    }

    private fun load(folder: File, stop: StopSignal, chosen: Settings, anyway: Boolean) {
        tried = folder
        val (bundle, estimate) = model.inspect(folder, chosen)
        val name = bundle.manifest.name
        val free = MemoryEstimate.megabytes(model.device.availableMemory())
        show { screen.facts(context.getString(R.string.needs, name, words.estimate(estimate), free)) }
        val checked = progress(R.string.checked, stop)
        model.chat.pause()
        val ready = session.load(folder, chosen, stop, anyway) { done, total ->
            checked(done, total)
            if (done == total) show { screen.stats(context.getString(R.string.loading)) }
        } ?: return
        ready.decoder?.onChunk = { chunk, chunks -> if (chunks > 1) show { screen.stats(context.getString(R.string.chunk, chunk, chunks)) } }
        model.chat.reloaded(ready, labels)
        show {
            model.chat.session?.let { screen.output(it.transcript()) }
            settings.lastBundle = folder.name
            screen.stats("")
            screen.facts(context.getString(R.string.loaded, name, ready.engineName, words.estimate(estimate)))
        }
    }

    private fun progress(verb: Int, stop: StopSignal, tell: (percent: Int) -> Unit = {}): (Long, Long) -> Boolean {
        var shown = -1
        return { done, total ->
            val percent = if (total == 0L) 100 else (100 * done / total).toInt()
            if (percent != shown) {
                shown = percent
                show {
                    screen.stats(context.getString(verb, percent, MemoryEstimate.megabytes(total)))
                    tell(percent)
                }
            }
            !stop.isRequested
        }
    }

    /** Continues a text; what the cache holds of it is not run again. */
    fun generate(prompt: String) {
        session.start { stop ->
            show { screen.output(prompt) }
            val stats = GenerationStats()
            session.ready().generate(prompt, settings.load(), stop, stats, reuse = true) { _, piece ->
                show { screen.append(piece) }
                figures(stats)
            }
            finish(stats)
        }
    }

    /** Answers a message, or the last one again where it is null; false where there is no conversation or no time. */
    fun answer(message: String?): Boolean {
        val conversation = model.chat.session ?: return false
        val before = conversation.turns
        return session.start { stop ->
            try {
                model.chat.answer(conversation, message, settings.load(), stop, shown)
            } finally {
                // Without an answer the message is no part of the conversation, and nobody wants to write it again.
                if (message != null && conversation.turns === before) show { screen.draft(message) }
            }
        }
    }

    private val shown = object : ChatState.Listener {
        override fun onTranscript(text: String) = show { screen.output(text) }

        override fun onPiece(piece: String) = show { screen.append(piece) }

        override fun onStats(stats: GenerationStats) = if (stats.stopReason == null) figures(stats) else finish(stats)
    }

    /** Figures of a text that goes on, seldom enough to be read, or read aloud. */
    private fun figures(stats: GenerationStats) {
        val now = Clock.System.nanos()
        if (now - figuresAt < FIGURES_NANOS) return
        figuresAt = now
        finish(stats)
    }

    private var figuresAt = 0L

    /** Labels a text. */
    fun classify(text: String) {
        session.start {
            val ready = session.ready()
            val classifier = ready.classifier ?: return@start
            val ids = ready.tokenizer.encode(text)
            val rows = classifier.classify(ids).mapIndexed { index, scores ->
                val token = if (classifier.perToken) "${ready.tokenizer.decode(intArrayOf(ids[index]))}: " else ""
                token + scores.take(SHOWN_LABELS).joinToString { String.format(Locale.ROOT, "%s %.3f", it.name, it.score) }
            }
            show { screen.output(rows.joinToString("\n")) }
        }
    }

    /** Replays the run that the exporter recorded. */
    fun selfTest() {
        session.start { stop ->
            val ready = session.ready()
            val decoder = ready.decoder ?: return@start
            val result = SelfTest(ready.manifest, ready.tokenizer, decoder).run(stop)
            show { screen.output(context.getString(R.string.self_test_on, ready.engineName, words.say(result.said))) }
        }
    }

    /** Keeps what the cache holds, for a later start. */
    fun saveCache() {
        session.start {
            val ready = session.ready()
            val tokens = ready.saveCache(cacheFile(ready))
            show { screen.stats(context.getString(R.string.cache_saved, tokens)) }
        }
    }

    /** Takes what was kept: a text or a conversation that begins with it starts at once. */
    fun loadCache() {
        session.start {
            val ready = session.ready()
            val tokens = ready.loadCache(cacheFile(ready))
            show { screen.stats(context.getString(R.string.cache_loaded, tokens)) }
        }
    }

    private fun cacheFile(ready: LoadedBundle): File =
        File(File(context.filesDir, "caches").apply { mkdirs() }, "${ready.bundle.manifestSha256().take(16)}.safetensors")

    /** Measures each number of threads, keeps the best one, and measures that one in full. */
    fun benchmark() {
        session.start { stop ->
            val folder = session.ready().bundle.folder
            val chosen = settings.load()
            var best = chosen.threads to 0.0
            for (threads in DeviceProbe.threadsToTry()) {
                show { screen.stats(context.getString(R.string.trying, threads)) }
                load(folder, stop, chosen.copy(threads = threads), anyway = true)
                val decoder = session.loaded?.decoder ?: return@start
                val plan = BenchmarkPlan.fitting(minOf(96, chosen.contextOf(session.ready().manifest)), repeats = 2)
                val speed = Benchmark(decoder).run(plan, stop)?.decode?.mean ?: return@start
                if (speed > best.second) best = threads to speed
            }
            settings.save("threads", best.first.toString())
            load(folder, stop, chosen.copy(threads = best.first), anyway = true)
            val ready = session.loaded ?: return@start
            val plan = BenchmarkPlan.fitting(chosen.contextOf(ready.manifest))
            val report = Benchmark(ready.decoder ?: return@start).run(plan, stop) { repeat ->
                show { screen.stats(context.getString(R.string.repeat, repeat, plan.repeats)) }
            } ?: return@start
            val json = report.toJson(ready.manifest, ready.engineName, model.device.facts(best.first))
            show { screen.output(json) }
        }
    }

    /** Decodes for five minutes, with how hot the device gets. */
    fun sustain() {
        session.start { stop ->
            val ready = session.ready()
            val decoder = ready.decoder ?: return@start
            val report = SustainedBenchmark(decoder, thermal = model.device::thermalStatus).run(stop = stop) { window ->
                show { screen.stats(context.getString(R.string.repeat, window, 30)) }
            } ?: return@start
            val json = report.toJson(ready.manifest, ready.engineName, model.device.facts(settings.load().threads))
            show { screen.output(json) }
        }
    }

    /** What `helium-edge bench --adb` asks for; the host waits for the document, so that a failure is one too. */
    fun measure(folder: File, intent: Intent, id: String) {
        val started = session.start { stop ->
            val document = try {
                val request = BenchmarkRequest.parse { intent.getStringExtra(it) }
                val stored = settings.load()
                // It fills the cache: memory is asked for as if the longest conversation came.
                val chosen = stored.copy(threads = if (request.threads == 0) stored.threads else request.threads, contextTokens = 0)
                load(folder, stop, chosen, anyway = false)
                session.loaded?.let { ready ->
                    RemoteBenchmark(residentBytes = model.device::residentBytes).run(ready, request, model.device.facts(chosen.threads), stop) { round ->
                        show { screen.stats(context.getString(R.string.repeat, round + 1, request.warmup + request.repeats)) }
                    }
                } ?: RemoteBenchmark.failure(stopped())
            } catch (error: HeliumException) {
                RemoteBenchmark.failure(error)
            } catch (error: RuntimeException) {
                RemoteBenchmark.failure(named(error))
            }
            RemoteBenchmark.publish(document, File(model.folder, "bench"), id)
            show { screen.output(document) }
        }
        if (!started) RemoteBenchmark.publish(RemoteBenchmark.failure(busy()), File(model.folder, "bench"), id)
    }

    /** What is said to who asks for work while there is some. */
    fun busy() = InvalidRequestException(Phrase.BUSY.with(), Phrase.WAIT_OR_STOP.with())

    private fun stopped() = InvalidRequestException("the benchmark was stopped on the phone", "Leave the app in front, with the screen on.")

    private fun finish(stats: GenerationStats) {
        val line = words.stats(stats)
        show { screen.stats(line) }
    }

    private fun show(block: () -> Unit) = session.deliver(block)

    private companion object {
        // Of the process, as the session is: a screen that is made anew finds them.
        @Volatile
        var importing = false

        @Volatile
        var tried: File? = null
    }
}
