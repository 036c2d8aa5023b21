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

/** The step that is run before the first text. */
class WarmUpTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val note by lazy { File(temporary.root, "note") }
    private val bundle = Vectors.bundle("in_place")

    private fun text(ids: List<Int>) = FloatArray(50) { id -> ((ids.fold(7) { hash, each -> 31 * hash + each } + 13 * id) % 101).toFloat() }

    private fun Logits.floats() = List(50) { buffer.get(offset + it) }

    private val manifests = listOf(
        fakeManifest(), fakeManifest(dynamic = true), fakeManifest(update = CacheUpdate.IN_PLACE, dynamic = true, batched = true),
        fakeManifest(buckets = listOf(4, 8), prefillBuckets = listOf(8)), fakeManifest(allLogits = true),
    )

    @Test
    fun `every slot that the first text reads is read before it, and the cache with which it begins is there`() {
        val engine = FakeEngine(50)
        val allocator = CountingAllocator()
        val decoder = Decoder(fakeManifest(buckets = listOf(4, 8), prefillBuckets = listOf(8)), engine, allocator)
        assertTrue(decoder.warmUp())
        assertEquals("the full cache, then the shortest", listOf("decode_16" to 0, "decode_4" to 0), engine.calls.map { it.graph.method to it.position })
        assertEquals("both are held", (16L + 4) * 96, allocator.bytes)
        val made = allocator.count to engine.bound
        decoder.decode(5)
        assertEquals("the first step makes nothing", made, allocator.count to engine.bound)
        for (manifest in listOf(fakeManifest(), fakeManifest(dynamic = true))) {
            val other = FakeEngine(50)
            Decoder(manifest, other).warmUp()
            assertEquals(listOf(listOf(1) to 0), other.calls.map { it.ids to it.position })
        }
    }

    @Test
    fun `a text reads the same with it and without, also in the middle of a conversation`() {
        for (manifest in manifests) {
            val (warm, cold) = List(2) { Decoder(manifest, TextEngine(::text)) }
            assertTrue(warm.warmUp())
            assertEquals(listOf<Any>(0, emptyList<Int>()), listOf(warm.position, warm.cachedTokens().toList()))
            for (count in listOf(3, 1, 6)) {
                val ids = IntArray(count) { 5 + warm.position + it }
                assertEquals(cold.prefill(ids)!!.floats(), warm.prefill(ids)!!.floats())
                assertTrue(warm.warmUp())
                assertEquals(cold.cachedTokens().toList(), warm.cachedTokens().toList())
                assertEquals(cold.decode(9)!!.floats(), warm.decode(9)!!.floats())
            }
            while (warm.position < warm.cacheLen) assertEquals(cold.decode(8)!!.floats(), warm.decode(8)!!.floats())
            assertTrue("a full cache has no room, and needs none", warm.warmUp())
            assertEquals(warm.cacheLen, warm.position)
        }
    }

    @Test
    fun `a prompt cache that is taken afterwards is what a text goes on behind`() {
        val file = File(temporary.root, "cache")
        val first = Decoder(fakeManifest(), TextEngine(::text))
        first.prefill(IntArray(6) { 5 + it })
        PromptCache.save(file, first, "x")
        val second = Decoder(fakeManifest(), TextEngine(::text)).apply { warmUp() }
        assertEquals(6, PromptCache.load(file, second, "x"))
        second.warmUp()
        assertEquals(6, second.follow(IntArray(8) { 5 + it }))
        assertEquals(first.decode(11)!!.floats(), second.decode(11)!!.floats())
    }

    @Test
    fun `stop ends it between graphs and within a step`() {
        val engine = FakeEngine(50)
        val decoder = Decoder(fakeManifest(buckets = listOf(4)), engine)
        assertFalse(decoder.warmUp(StopSignal().apply { request() }))
        assertEquals(0, engine.loaded.size)
        val stop = StopSignal()
        engine.beforeRun = { stop.request() }
        assertFalse(decoder.warmUp(stop))
        assertEquals("interrupted, and ready again", 1 to 1, engine.interrupts to engine.resumes)
        assertEquals(0 to 0, decoder.position to engine.calls.size)
        engine.beforeRun = { }
        assertTrue(decoder.warmUp(StopSignal()))
        // Whatever else a runtime fails with is no stop.
        engine.beforeRun = { throw EngineException("broken", "Repair the engine.") }
        assertFails<EngineException> { decoder.warmUp(StopSignal()) }
        assertEquals(0, decoder.position)
    }

    @Test
    fun `a load runs a step under the guard`() {
        val suspects = ArrayList<String?>()
        val engine = FakeEngine(4096) { 300 }.apply { recordsCache = false }
        engine.beforeRun = { suspects.add(CrashGuard(note).suspect()) }
        loader(engine, BufferAllocator.Direct).load(bundle, Settings())!!.use { loaded ->
            assertEquals("what ends the process here makes the bundle suspect", listOf<String?>(bundle.name), suspects)
            assertEquals(0, loaded.decoder!!.position)
            loaded.decoder.decode(300)
            assertNull("the guard is for the load alone", suspects.last())
        }
    }

    @Test
    fun `a classifier runs one call under the guard, which ends with a stop`() {
        val folder = Vectors.classifier(File(temporary.root, "classifier"))
        val suspects = ArrayList<String?>()
        val engine = FakeEngine(4096) { 300 }.apply { beforeRun = { suspects.add(CrashGuard(note).suspect()) } }
        loader(engine, BufferAllocator.Direct).load(folder, Settings())!!.use { loaded ->
            val tokens = loaded.manifest.tokens
            val call = engine.calls.single()
            assertEquals(listOf(tokens.bos ?: 0) + List(loaded.classifier!!.width - 1) { tokens.pad ?: tokens.bos ?: 0 }, call.ids)
            assertEquals(listOf<String?>("classifier"), suspects)
        }
        val stop = StopSignal()
        val stopped = FakeEngine(4096) { 300 }.apply { beforeRun = { stop.request() } }
        assertNull(loader(stopped, BufferAllocator.Direct).load(folder, Settings(), stop = stop))
        assertEquals(listOf(true, 1), listOf(stopped.closed, stopped.closedSteps))
        val failing = FakeEngine(4096) { 300 }.apply { beforeRun = { throw EngineException("no such kernel", "Take another graph.") } }
        assertFails<EngineException> { loader(failing, BufferAllocator.Direct).load(folder, Settings()) }
        assertEquals(listOf(true, 1), listOf(failing.closed, failing.closedSteps))
    }

    @Test
    fun `a load that is stopped in it gives everything back`() {
        val engine = FakeEngine(4096) { 300 }.apply { recordsCache = false }
        val allocator = CountingAllocator()
        val stop = StopSignal()
        engine.beforeRun = { stop.request() }
        assertNull(loader(engine, allocator).load(bundle, Settings(), stop = stop))
        assertEquals(listOf(true, true, 0L), listOf(engine.closed, allocator.count > 0, allocator.bytes))
        assertNull(CrashGuard(note).suspect())
        engine.beforeRun = { }
        assertNotNull(loader(engine, allocator).load(bundle, Settings(), stop = StopSignal()))
    }

    private fun loader(engine: FakeEngine, allocator: BufferAllocator) =
        BundleLoader(mapOf(Runtime.ONNX to EngineFactory { _, _, _ -> engine }), allocator, CrashGuard(note), null) { 1L shl 40 }
}
