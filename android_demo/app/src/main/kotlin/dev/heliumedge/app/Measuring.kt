package dev.heliumedge.app

import android.content.Context
import dev.heliumedge.core.Benchmark
import dev.heliumedge.core.BenchmarkPlan
import dev.heliumedge.core.BenchmarkRequest
import dev.heliumedge.core.DeviceProbe
import dev.heliumedge.core.InvalidRequestException
import dev.heliumedge.core.LoadedBundle
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.RemoteBenchmark
import dev.heliumedge.core.Settings
import dev.heliumedge.core.StopSignal
import dev.heliumedge.core.SustainedBenchmark
import dev.heliumedge.core.ThreadSweep
import java.io.File

private const val WINDOWS = 30

/** Benchmarks, in the model's thread. */
class Measuring(private val context: Context, private val model: Model) {
    private val session = model.session
    private val screen = model.screen
    private val loading = model.loading

    /** Measures each number of threads, keeps the best one, and measures that one in full; false where there is work already. */
    fun benchmark(): Boolean = start { stop ->
        val best = ThreadSweep(session) { folder, wanted, signal -> load(folder, wanted, signal) }.run(DeviceProbe.threadsToTry(), stop) { threads ->
            show { screen.stats(context.getString(R.string.trying, threads)) }
        } ?: return@start
        model.settings.save("threads", best.threads.toString())
        val ready = session.ready()
        val plan = BenchmarkPlan.fitting(ready.settings.contextOf(ready.manifest))
        val report = Benchmark(ready.decoder ?: return@start).run(plan, stop) { repeat ->
            show { screen.stats(context.getString(R.string.repeat, repeat, plan.repeats)) }
        } ?: return@start
        result(report.toJson(ready, model.device.facts()))
    }

    /** What a sweep loads; behind a stopped one nobody may look any more, and then gigabytes are not loaded again. */
    private fun load(folder: File, wanted: Settings, stop: StopSignal): LoadedBundle? {
        if (session.observer != null) return loading.load(folder, stop, wanted, anyway = true, quietly = true)
        loading.free()
        return null
    }

    /** Decodes for five minutes, with how hot the device gets; false where there is work already. */
    fun sustain(): Boolean = start { stop ->
        val ready = session.ready()
        val decoder = ready.decoder ?: return@start
        val report = SustainedBenchmark(decoder, thermal = model.device::thermalStatus).run(windows = WINDOWS, stop = stop) { window ->
            show { screen.stats(context.getString(R.string.repeat, window, WINDOWS)) }
        } ?: return@start
        result(report.toJson(ready, model.device.facts()))
    }

    /**
     * What `helium-edge bench --adb` asks for. The computer waits for the document, so that every failure is one too. The
     * model, which has other settings than the user's, is freed behind it.
     */
    fun measure(order: Order.Measure, extra: (String) -> String?) {
        val started = start { stop ->
            try {
                val document = remoteAnswer { measure(order.bundle, extra, stop) }
                publish(document, order)
                result(document)
            } finally {
                loading.free()
            }
        }
        if (!started) publish(remoteAnswer { throw busy() }, order)
    }

    private fun measure(bundle: String, extra: (String) -> String?, stop: StopSignal): String? {
        val request = BenchmarkRequest.parse(extra)
        val stored = model.settings.load()
        // It fills the cache: memory is asked for as if the longest conversation came.
        val chosen = stored.copy(threads = if (request.threads == 0) stored.threads else request.threads, contextTokens = 0)
        val ready = loading.load(loading.find(bundle), stop, chosen, anyway = false, quietly = true) ?: return null
        return RemoteBenchmark(residentBytes = model.device::residentBytes).run(ready, request, model.device.facts(), stop) { round ->
            show { screen.stats(context.getString(R.string.repeat, round + 1, request.warmup + request.repeats)) }
        }
    }

    private fun publish(document: String, order: Order.Measure) = RemoteBenchmark.publish(document, File(model.folder, "bench"), order.id)

    /** Begins work, whose rounds are not shown behind its end: a measurement that is over would look like one that goes on. */
    private fun start(work: (StopSignal) -> Unit): Boolean = session.start { stop ->
        try {
            work(stop)
        } finally {
            show { screen.stats("") }
        }
    }

    private fun result(document: String) = show {
        screen.output(document)
        // Nobody wants a document read aloud.
        screen.say(context.getString(R.string.measured))
    }

    private fun show(block: () -> Unit) = session.deliver(block)
}

/** What is said to who asks for work while there is some. */
fun busy(): InvalidRequestException = InvalidRequestException(Phrase.BUSY.with(), Phrase.WAIT_OR_STOP.with())
