package dev.heliumedge.core

import java.io.File
import java.util.concurrent.ConcurrentLinkedQueue
import java.util.concurrent.Executors
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.ThreadFactory
import java.util.concurrent.atomic.AtomicInteger
import java.util.concurrent.atomic.AtomicReference

/** Gets what happens in a [HeliumSession]; in the thread that its `deliver` chooses, a screen's for instance. */
public interface SessionObserver {
    /** Work begins or ended. */
    public fun onBusy(busy: Boolean)

    /** Work ended in an error; whatever it was, it has a message and a remedy. */
    public fun onError(error: HeliumException)
}

/**
 * One model for a whole process: who owns it, and the one thread that touches it. What an app keeps where its screens
 * come and go, since loading takes seconds and two models seldom fit.
 *
 * ```
 * val session = HeliumSession(BundleLoader(...)) { block -> mainHandler.post(block) }
 * session.start { stop -> session.load(folder, Settings(), stop) }                  // any thread; then, when not busy:
 * session.generate("Les modèles", Settings()) { piece -> textView.append(piece) }   // with a callback, or
 * for (piece in session.stream("Les modèles", Settings())) print(piece)             // as an iterator, off the main thread
 * session.stop()
 * ```
 *
 * @param prepare Runs once in the thread of the model, as to set its priority.
 * @param deliver Runs blocks where observers and callbacks are to be called; by default in the thread of the model.
 */
public class HeliumSession(
    private val loader: BundleLoader,
    prepare: () -> Unit = {},
    public val deliver: (() -> Unit) -> Unit = { it() },
) : AutoCloseable {
    private val worker = Executors.newSingleThreadExecutor(
        ThreadFactory { task -> Thread({ prepare(); task.run() }, "helium-engine").apply { isDaemon = true } },
    )
    private val pending = AtomicInteger()

    /** Of the work that runs or waits. */
    private val stops = ConcurrentLinkedQueue<StopSignal>()

    /** The last error that nobody was there to be told of. */
    private val missed = AtomicReference<HeliumException>()

    /**
     * Who is told; a screen takes its place when it appears, and leaves it when it goes. An error that came while there
     * was nobody, as of an import in the background, is told to the next one.
     */
    @Volatile
    public var observer: SessionObserver? = null
        set(value) {
            field = value
            if (value != null) tellMissed()
        }

    /** The bundle that is ready, or null; changed by the session's own thread alone. */
    @Volatile
    public var loaded: LoadedBundle? = null
        private set

    /** Whether there is work. */
    public val isBusy: Boolean get() = pending.get() > 0

    /** Whether more work waits behind the one that runs, which had better end soon. */
    public val hasNext: Boolean get() = pending.get() > 1

    /**
     * Runs [work] in the session's thread; its errors go to the observer.
     *
     * @return False where there is work already, and nothing was done.
     */
    public fun start(work: (StopSignal) -> Unit): Boolean {
        if (!pending.compareAndSet(0, 1)) return false
        enqueue(work)
        return true
    }

    /** Runs [work] behind what there is, which is asked to stop. */
    public fun startNext(work: (StopSignal) -> Unit) {
        pending.incrementAndGet()
        stop()
        enqueue(work)
    }

    /** Ends the work that there is, within one token. */
    public fun stop() {
        stops.forEach(StopSignal::request)
    }

    /**
     * Loads a bundle in place of the one before, whose memory is free before that of the new one is taken. Within [start].
     *
     * @return Null when it was stopped.
     * @throws HeliumException What [BundleLoader.load] throws.
     */
    public fun load(
        folder: File,
        settings: Settings,
        stop: StopSignal,
        anyway: Boolean = false,
        progress: (Long, Long) -> Unit = { _, _ -> },
    ): LoadedBundle? {
        release()
        val ready = loader.load(folder, settings, anyway, stop) { done, total ->
            progress(done, total)
            !stop.isRequested
        }
        loaded = ready
        return ready
    }

    /** Frees the model, once what runs has stopped. */
    public fun unload(): Unit = startNext { release() }

    /**
     * Continues a text, piece by piece.
     *
     * @param done Gets the figures at the end; not called when it failed, which the observer is told.
     * @return False where there is work already.
     */
    public fun generate(prompt: String, settings: Settings, done: (GenerationStats) -> Unit = {}, piece: (String) -> Unit): Boolean = start { stop ->
        val stats = GenerationStats()
        ready().generate(prompt, settings, stop, stats) { _, text -> if (text.isNotEmpty()) deliver { piece(text) } }
        deliver { done(stats) }
    }

    /**
     * Continues a text as an iterator, which waits for each piece: for a thread of its own, not the main one. Closing it
     * ends the text.
     *
     * @throws InvalidRequestException There is work already.
     */
    public fun stream(prompt: String, settings: Settings): TextStream {
        val stream = TextStream()
        val started = start { stop ->
            stream.begin(stop)
            try {
                ready().generate(prompt, settings, stop, stream.stats) { _, text -> if (text.isNotEmpty()) stream.add(text) }
                stream.end(null)
            } catch (error: Throwable) {
                stream.end(named(error))
            }
        }
        if (!started) throw InvalidRequestException(Phrase.BUSY.with(), Phrase.WAIT_OR_STOP.with())
        return stream
    }

    /** The bundle that is ready. */
    public fun ready(): LoadedBundle = loaded ?: throw InvalidRequestException(Phrase.NOT_LOADED.with(), Phrase.OPEN_FIRST.with())

    /** Stops what runs, frees the model and ends the thread. */
    override fun close() {
        unload()
        worker.shutdown()
    }

    /**
     * Runs what follows work that was stopped, as putting back what there was, by a signal of its own which [stop] reaches
     * like the first. Within [start].
     */
    internal fun <T> withFurtherSignal(block: (StopSignal) -> T): T {
        val stop = StopSignal()
        stops.add(stop)
        try {
            return block(stop)
        } finally {
            stops.remove(stop)
        }
    }

    private fun enqueue(work: (StopSignal) -> Unit) {
        val stop = StopSignal()
        stops.add(stop)
        tell { onBusy(true) }
        worker.execute {
            val error = try {
                work(stop)
                null
            } catch (error: Throwable) {
                // This thread must not die of anything: the app would end without a word.
                named(error)
            }
            stops.remove(stop)
            val busy = pending.decrementAndGet() > 0
            if (error != null) missed.set(error)
            tell { onBusy(busy) }
            tellMissed()
        }
    }

    /** Frees the model and its memory. Within [start]. */
    public fun release() {
        val before = loaded
        loaded = null
        before?.close()
    }

    private fun tellMissed() = deliver {
        observer?.let { told -> missed.getAndSet(null)?.let(told::onError) }
    }

    private fun tell(what: SessionObserver.() -> Unit) = deliver { observer?.what() }
}

/** The pieces of a text as they come; one thread at a time. */
public class TextStream internal constructor() : Iterator<String>, AutoCloseable {
    private class Item(val text: String?, val error: HeliumException?)

    private val items = LinkedBlockingQueue<Item>()
    private var next: Item? = null

    @Volatile
    private var stop: StopSignal? = null

    @Volatile
    private var closed = false

    /** Figures so far. */
    public val stats: GenerationStats = GenerationStats()

    /** @throws HeliumException What ended the text. */
    override fun hasNext(): Boolean {
        val item = next ?: items.take().also { next = it }
        item.error?.let { throw it }
        return item.text != null
    }

    override fun next(): String {
        if (!hasNext()) throw NoSuchElementException("the text has ended")
        return next!!.text!!.also { next = null }
    }

    /** Ends the text; what came until then can still be read. */
    override fun close() {
        closed = true
        stop?.request()
    }

    internal fun begin(stop: StopSignal) {
        this.stop = stop
        if (closed) stop.request()
    }

    internal fun add(text: String) {
        items.put(Item(text, null))
    }

    internal fun end(error: HeliumException?) {
        items.put(Item(null, error))
    }
}
