package dev.heliumedge.core

import java.io.File

/** Tokens of a trial, prompt and steps together: enough to tell numbers of threads apart, in seconds each. */
private const val TRIAL_TOKENS = 96
private const val REPEATS = 2

/** Share of the fastest decoding within which trials count as equally fast: two runs of one number differ by as much. */
private const val AS_FAST = 0.97

/** One number of threads, and the tokens per second that it gave. */
public data class ThreadTrial(val threads: Int, val prefill: Double, val decode: Double)

/**
 * Finds the number of threads that suits a device and a bundle, which is loaded anew for each of them.
 *
 * An answer is mostly decoding, so that decides; of the numbers that decode within 3 % of the fastest, the one that reads
 * prompts fastest is taken, and of equal ones the smallest.
 *
 * @param load Loads in the session, and does what else the app does then; null when the signal stopped it.
 */
public class ThreadSweep(
    private val session: HeliumSession,
    private val clock: Clock = Clock.System,
    private val load: (File, Settings, StopSignal) -> LoadedBundle? = { folder, settings, stop -> session.load(folder, settings, stop, anyway = true) },
) {
    /**
     * Tries each number in turn, and leaves the bundle loaded with the best one. Stopped or failed it leaves it as it was
     * loaded before, unless other work waits, which will load or free what it likes, or this is stopped in its turn, which
     * leaves nothing loaded. Within [HeliumSession.start].
     *
     * @param candidates Numbers of threads, as [DeviceProbe.threadsToTry] has them; at least one.
     * @param trying Called with each number that is about to be tried.
     * @return Null when [stop] ended it.
     * @throws InvalidRequestException No bundle is loaded, or one that continues no text.
     * @throws HeliumException What loading and running throw.
     */
    public fun run(candidates: List<Int>, stop: StopSignal, trying: (Int) -> Unit = {}): ThreadTrial? {
        val before = session.ready()
        before.requireDecoder()
        val (folder, settings) = before.bundle.folder to before.settings
        val found = try {
            sweep(folder, settings, candidates, stop, trying)
        } catch (error: Throwable) {
            try {
                restore(folder, settings)
            } catch (further: Throwable) {
                // What came first says more.
                error.addSuppressed(further)
            }
            throw error
        }
        if (found == null) restore(folder, settings)
        return found
    }

    private fun sweep(folder: File, settings: Settings, candidates: List<Int>, stop: StopSignal, trying: (Int) -> Unit): ThreadTrial? {
        val trials = candidates.map { threads ->
            trying(threads)
            val loaded = load(folder, settings.copy(threads = threads), stop) ?: return null
            measure(loaded, threads, stop) ?: return null
        }
        val best = best(trials)
        if (session.loaded?.settings?.threads == best.threads) return best
        return if (load(folder, settings.copy(threads = best.threads), stop) == null) null else best
    }

    private fun measure(loaded: LoadedBundle, threads: Int, stop: StopSignal): ThreadTrial? {
        val plan = BenchmarkPlan.fitting(minOf(TRIAL_TOKENS, loaded.settings.contextOf(loaded.manifest)), REPEATS)
        val report = Benchmark(loaded.requireDecoder(), clock).run(plan, stop) ?: return null
        return ThreadTrial(threads, report.prefill.mean, report.decode.mean)
    }

    // By a signal of its own: the one that ended the sweep would end this as well. The signal is there before one looks for
    // work that waits, which would otherwise come in between and stop nothing.
    private fun restore(folder: File, settings: Settings) = session.withFurtherSignal { stop ->
        if (!session.hasNext && session.loaded?.settings?.threads != settings.threads) load(folder, settings, stop)
    }

    public companion object {
        /** The trial that is best by the rule above. */
        public fun best(trials: List<ThreadTrial>): ThreadTrial {
            val fastest = trials.maxOf { it.decode }
            return trials.filter { it.decode >= AS_FAST * fastest }.sortedBy { it.threads }.maxByOrNull { it.prefill }!!
        }
    }
}
