package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.util.concurrent.CountDownLatch
import java.util.concurrent.LinkedBlockingQueue
import java.util.concurrent.TimeUnit

class HeliumSessionTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val engines = ArrayList<FakeEngine>()
    private val allocator = CountingAllocator()
    private val bundle = Vectors.bundle("in_place")
    private val settings = Settings(generation = GenerationOverrides(maxNewTokens = 4))
    private val events = LinkedBlockingQueue<Any>()
    private var atFirstStep = { }

    private fun session(available: Long = 1L shl 40): HeliumSession {
        val factory = EngineFactory { _, _, _ -> FakeEngine(4096) { 300 }.also { it.recordsCache = false; it.beforeRun = { atFirstStep() }; engines.add(it) } }
        val loader = BundleLoader(mapOf(Runtime.ONNX to factory), allocator, CrashGuard(File(temporary.root, "note")), null) { available }
        return HeliumSession(loader).apply {
            observer = object : SessionObserver {
                override fun onBusy(busy: Boolean) = events.put(busy).let { }

                override fun onError(error: HeliumException) = events.put(error).let { }
            }
        }
    }

    private fun idle() {
        while (event() != false) {}
    }

    private fun event(): Any = events.poll(20, TimeUnit.SECONDS) ?: error("nothing happened")

    @Test
    fun `a text comes as an iterator and to a callback`() {
        session().use { session ->
            assertFalse(session.isBusy)
            session.start { stop -> assertNotNull(session.load(bundle, settings, stop)) }
            idle()
            val pieces = session.stream("The device", settings).use { stream -> stream.asSequence().toList().also { assertEquals(4, stream.stats.newTokens) } }
            idle()
            val called = StringBuilder()
            var figures: GenerationStats? = null
            assertTrue(session.generate("The device", settings, { figures = it }) { called.append(it) })
            idle()
            assertEquals(pieces.joinToString(""), called.toString())
            assertEquals(StopReason.LENGTH, figures!!.stopReason)
        }
    }

    @Test
    fun `while it works nothing else is begun, and unloading waits for its end`() {
        session().use { session ->
            session.start { stop -> session.load(bundle, settings, stop) }
            idle()
            val entered = CountDownLatch(1)
            engines.single().beforeRun = { entered.countDown(); Thread.sleep(5) }
            val endless = Settings(generation = GenerationOverrides(maxNewTokens = 1000))
            assertTrue(session.generate("The device", endless) { })
            entered.await()
            assertFalse(session.start { error("must not run") })
            assertFails<InvalidRequestException> { session.stream("more", settings) }
            session.unload()
            idle()
            assertNull("it was not lost", session.loaded)
            assertTrue(engines.single().closed)
            assertEquals("the memory of the cache is back", 0L, allocator.bytes)
            session.stream("The device", settings).use { stream -> assertFails<InvalidRequestException> { stream.hasNext() } }
        }
    }

    @Test
    fun `a stop that comes before the work begins holds`() {
        session().use { session ->
            session.start { stop -> session.load(bundle, settings, stop) }
            idle()
            val gate = CountDownLatch(1)
            var ended: Boolean? = null
            session.startNext { gate.await() }
            session.startNext { stop -> ended = stop.isRequested }
            session.stop()
            gate.countDown()
            idle()
            assertEquals(true, ended)
        }
    }

    @Test
    fun `a stop while graphs are loaded ends the load, and what waits is known`() {
        session().use { session ->
            var waiting: Boolean? = null
            session.start { stop ->
                assertFalse(session.hasNext)
                atFirstStep = { session.startNext { waiting = session.hasNext } }
                session.load(bundle, settings, stop)
                atFirstStep = { }
                assertTrue(session.hasNext)
            }
            idle()
            assertNull(session.loaded)
            assertTrue(engines.single().closed)
            assertEquals(false, waiting)
            assertEquals(0L, allocator.bytes)
            session.start { stop -> session.load(bundle, settings, stop) }
            idle()
            assertEquals(settings, session.loaded!!.settings)
        }
    }

    @Test
    fun `closing an iterator ends the text`() {
        session().use { session ->
            session.start { stop -> session.load(bundle, settings, stop) }
            idle()
            val stream = session.stream("The device", Settings(generation = GenerationOverrides(maxNewTokens = 900)))
            stream.next()
            stream.close()
            idle()
            assertTrue("${stream.stats.newTokens}", stream.stats.newTokens < 900)
            assertEquals(StopReason.STOPPED, stream.stats.stopReason)
        }
    }

    @Test
    fun `another bundle is loaded after the memory of the one before is free`() {
        session().use { session ->
            session.start { stop -> session.load(bundle, settings, stop) }
            idle()
            val held = allocator.bytes
            session.start { stop -> session.load(bundle, settings, stop) }
            idle()
            assertEquals(held, allocator.bytes)
            assertEquals(listOf(true, false), engines.map { it.closed })
        }
    }

    @Test
    fun `whatever is thrown ends in a message, and the session lives`() {
        session().use { session ->
            val thrown = listOf(
                IllegalStateException("closed"), OutOfMemoryError("Java heap space"), NoClassDefFoundError("ai/onnxruntime/OrtSession"),
                NullPointerException(), StackOverflowError(), UnsupportedOperationException("provider"),
            )
            for (error in thrown) {
                assertTrue(session.start { throw error })
                var shown = event()
                while (shown !is HeliumException) shown = event()
                assertTrue(shown.message!!, shown.message!!.lines().size == 1 && shown.fix.length > 10)
                if (error is OutOfMemoryError) assertEquals(Phrase.HEAP_FULL, shown.said.phrase)
                if (shown is UnexpectedException) assertTrue(shown.report, error.javaClass.simpleName in shown.report && "HeliumSessionTest" in shown.report)
            }
            assertTrue(session.start { })
            idle()
        }
    }

    @Test
    fun `an error that nobody saw is told to the next screen, once`() {
        session().use { session ->
            val screen = session.observer
            session.observer = null
            val ended = CountDownLatch(1)
            session.start { throw StorageException("the card is gone") }
            session.startNext { ended.countDown() }
            ended.await()
            session.observer = screen
            var shown = event()
            while (shown !is HeliumException) shown = event()
            assertTrue("$shown", shown is StorageException)
            session.observer = screen
            session.start { }
            idle()
            assertTrue("$events", events.none { it is HeliumException })
        }
    }

    @Test
    fun `what there is no memory for is refused, and loaded anyway where that is wanted`() {
        session(available = 1000).use { session ->
            session.start { stop -> session.load(bundle, settings, stop) }
            var shown = event()
            while (shown !is HeliumException) shown = event()
            assertTrue(shown is NotEnoughMemoryException)
            session.start { stop -> session.load(bundle, settings, stop, anyway = true) }
            idle()
            assertNotNull(session.loaded)
        }
    }
}
