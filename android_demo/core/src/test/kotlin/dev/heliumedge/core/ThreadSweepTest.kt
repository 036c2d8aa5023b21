package dev.heliumedge.core

import org.junit.After
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

class ThreadSweepTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val bundle = Vectors.bundle("in_place")
    private val before = Settings(threads = 3, contextTokens = 100, seed = 5)

    /** Nanoseconds of a token, by threads: of a prompt and of a step. */
    private val costs = mapOf(1 to (90L to 900L), 2 to (50L to 500L), 3 to (40L to 400L), 4 to (20L to 305L), 6 to (30L to 300L), 8 to (10L to 700L))
    private var now = 0L
    private var failing = 0
    private val loads = ArrayList<Int>()
    private val ended = LinkedBlockingQueue<Any>()

    private val session by lazy {
        val factory = EngineFactory { _, threads, _ ->
            loads.add(threads)
            if (threads == failing) throw EngineException("no such threads", "Take fewer.")
            val (prompt, step) = costs.getValue(threads)
            val engine = FakeEngine(4096) { call ->
                now += if (call.ids.size == 1) step else prompt * call.ids.size
                300
            }
            engine.apply { recordsCache = false }
        }
        HeliumSession(BundleLoader(mapOf(Runtime.ONNX to factory), BufferAllocator.Direct, CrashGuard(File(temporary.root, "note")), null) { 1L shl 40 })
    }

    @After
    fun close() = session.close()

    /** Runs it in the session's thread: what it gave, or what it threw. */
    private fun run(work: (StopSignal) -> Any?): Any? {
        assertTrue(session.start { stop -> ended.put(try { listOf(work(stop)) } catch (error: HeliumException) { error }) })
        val found = ended.poll(60, TimeUnit.SECONDS) ?: error("nothing happened")
        while (session.isBusy) Thread.sleep(1)
        return if (found is List<*>) found.single() else found
    }

    @Test
    fun `the best decodes as fast as any, and reads prompts faster than those`() {
        run { stop -> session.load(bundle, before, stop) }
        val tried = ArrayList<Int>()
        val best = run { stop -> ThreadSweep(session, { now }).run(listOf(1, 2, 4, 6, 8), stop) { tried.add(it) } } as ThreadTrial
        assertEquals(listOf(1, 2, 4, 6, 8), tried)
        assertEquals("6 is faster by less than a measurement tells", 4, best.threads)
        assertEquals(1e9 / 20, best.prefill, 1.0)
        assertEquals(1e9 / 305, best.decode, 1.0)
        assertEquals("the others are as they were", before.copy(threads = 4), session.loaded!!.settings)
        val again = loads.size
        assertEquals(2, (run { stop -> ThreadSweep(session, { now }).run(listOf(1, 2), stop) } as ThreadTrial).threads)
        assertEquals("the last one is not loaded twice", again + 2, loads.size)
    }

    @Test
    fun `a tie is decided by the prompt and then by fewer threads`() {
        fun best(vararg trials: ThreadTrial) = ThreadSweep.best(trials.toList()).threads
        assertEquals(4, best(ThreadTrial(2, 50.0, 97.0), ThreadTrial(4, 60.0, 98.0), ThreadTrial(6, 55.0, 100.0)))
        assertEquals("too slow to count", 6, best(ThreadTrial(4, 90.0, 96.9), ThreadTrial(6, 55.0, 100.0)))
        assertEquals(2, best(ThreadTrial(6, 55.0, 100.0), ThreadTrial(2, 55.0, 100.0)))
        assertEquals(1, best(ThreadTrial(1, 1.0, 1.0)))
    }

    @Test
    fun `stopped or failed it leaves the bundle as it was loaded`() {
        run { stop -> session.load(bundle, before, stop) }
        assertNull(run { stop -> ThreadSweep(session, { now }).run(listOf(1, 2, 4), stop) { if (it == 4) stop.request() } })
        assertEquals(before, session.loaded!!.settings)
        failing = 4
        val error = run { stop -> ThreadSweep(session, { now }).run(listOf(1, 2, 4), stop) }
        assertEquals("no such threads", (error as HeliumException).what)
        assertEquals(before, session.loaded!!.settings)
        failing = 0
        val count = loads.size
        val stopping = ThreadSweep(session, { now }) { folder, settings, stop -> session.load(folder, settings, stop).also { stop.request() } }
        assertNull(run { stop -> stopping.run(listOf(3), stop) })
        assertEquals("with as many threads as before it stays", before.threads to count + 1, session.loaded!!.settings.threads to loads.size)
    }

    @Test
    fun `where other work waits nothing is loaded for it`() {
        run { stop -> session.load(bundle, before, stop) }
        val count = loads.size
        run { stop ->
            ThreadSweep(session, { now }).run(listOf(1, 2, 4), stop) { if (it == 4) session.startNext { session.release() } }
        }
        assertEquals("two were tried", count + 2, loads.size)
        assertNull(session.loaded)
    }

    @Test
    fun `no bundle, and one of a classifier, are refused`() {
        fun refused() = (run { stop -> ThreadSweep(session, { now }).run(listOf(1), stop) } as InvalidRequestException).said.phrase
        assertEquals(Phrase.NOT_LOADED, refused())
        val classifier = Vectors.classifier(File(temporary.root, "classifier"))
        run { stop -> session.load(classifier, before, stop) }
        assertEquals(Phrase.CLASSIFIES, refused())
        assertEquals("it is not loaded anew", listOf(before.threads), loads)
    }

    @Test
    fun `who stops again, or leaves, stops what restores as well`() {
        run { stop -> session.load(bundle, before, stop) }
        var reached = false
        val sweep = ThreadSweep(session, { now }) { folder, settings, stop ->
            if (settings == before) {
                session.stop()
                reached = stop.isRequested
            }
            session.load(folder, settings, stop, anyway = true)
        }
        assertNull(run { stop -> sweep.run(listOf(1, 2, 4), stop) { if (it == 4) stop.request() } })
        assertTrue("the load that restores is stopped", reached)
        assertNull("nothing is left loaded", session.loaded)
    }

    @Test
    fun `documents tell the threads that are used and not those that were meant`() {
        run { stop -> session.load(bundle, before, stop) }
        val loaded = session.loaded!!
        val facts = mapOf("device" to "x", "threads" to 99)
        val plan = BenchmarkPlan(4, 2, 1)
        val documents = listOf(
            Benchmark(loaded.decoder!!) { now++ }.run(plan)!!.toJson(loaded, facts),
            SustainedReport(1, listOf(2.0), listOf(0)).toJson(loaded, facts),
            SustainedReport(1, listOf(2.0), listOf(0)).toJson(loaded, mapOf("device" to "x")),
        )
        for (document in documents) assertEquals("3", ((Json.parse(document) as Json.Obj).fields.getValue("threads") as Json.Num).text)
        val remote = RemoteBenchmark({ now++ }).run(loaded, BenchmarkRequest(listOf(0), emptyList(), 1, 0, 1), facts)!!
        val device = (Json.parse(remote) as Json.Obj).fields.getValue("device") as Json.Obj
        assertEquals(listOf("x", "3"), listOf((device.fields.getValue("device") as Json.Str).value, (device.fields.getValue("threads") as Json.Num).text))
    }
}
