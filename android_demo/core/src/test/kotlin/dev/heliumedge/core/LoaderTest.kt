package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File

class LoaderTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val engine = FakeEngine(4096) { 300 }
    private val note by lazy { File(temporary.root, "note") }
    private val bundle = Vectors.bundle("in_place")

    private fun loader(factories: Map<Runtime, EngineFactory> = mapOf(Runtime.ONNX to EngineFactory { _, _, _ -> engine }), available: Long = 1L shl 40) =
        BundleLoader(factories, BufferAllocator.Direct, CrashGuard(note), null) { available }

    @Test
    fun `a bundle is loaded, and its text stays within the context`() {
        engine.recordsCache = false
        loader().load(bundle, Settings())!!.use { loaded ->
            val stats = GenerationStats()
            loaded.generate("The device", Settings(contextTokens = 6), StopSignal(), stats) { _, _ -> }
            assertEquals(StopReason.LENGTH, stats.stopReason)
            assertEquals("three of the prompt, three fed back, one more shown", 4, stats.newTokens)
            assertFails<CacheFullException> { loaded.generate("The device", Settings(contextTokens = 2), StopSignal(), stats) { _, _ -> } }
            val short = GenerationStats()
            loaded.generate("The device", Settings(generation = GenerationOverrides(maxNewTokens = 2)), StopSignal(), short) { _, _ -> }
            assertEquals(2, short.newTokens)
        }
        assertTrue(engine.closed)
        assertNull(CrashGuard(note).suspect())
    }

    @Test
    fun `a saved cache spares the prompt, in a text and in a conversation`() {
        engine.recordsCache = false
        val file = File(temporary.root, "cache")
        val settings = Settings(generation = GenerationOverrides(maxNewTokens = 3))
        loader().load(bundle, settings)!!.use { loaded ->
            assertFails<InvalidRequestException> { loaded.saveCache(file) }
            loaded.generate("The device is", settings, StopSignal(), GenerationStats()) { _, _ -> }
            assertEquals("four of the prompt, two fed back", loaded.tokenizer.encode("The device is").size + 2, loaded.saveCache(file))
        }
        loader().load(bundle, settings)!!.use { loaded ->
            engine.calls.clear()
            val prompt = loaded.tokenizer.encode("The device is")
            assertEquals(prompt.size + 2, loaded.loadCache(file))
            val stats = GenerationStats()
            loaded.generate("The device is", settings, StopSignal(), stats, reuse = true) { _, _ -> }
            assertEquals(listOf(prompt.size - 1, 1), listOf(stats.reusedTokens, stats.promptTokens))
            assertEquals("the last token alone, at its place", listOf(listOf(prompt.last()) to prompt.size - 1), engine.calls.take(1).map { it.ids to it.position })
            loaded.loadCache(file)
            engine.calls.clear()
            val fresh = GenerationStats()
            loaded.generate("The device is", settings, StopSignal(), fresh) { _, _ -> }
            assertEquals(0, fresh.reusedTokens)
            assertEquals(prompt.size, fresh.promptTokens)
            File(temporary.root, "cut").writeBytes(file.readBytes().dropLast(1).toByteArray())
            assertFails<PromptCacheException> { loaded.loadCache(File(temporary.root, "cut")) }
            assertEquals("the conversation goes on", prompt.size + 2, loaded.decoder!!.position)
        }
    }

    @Test
    fun `what does not fit is refused before the runtime is opened`() {
        val never = EngineFactory { _, _, _ -> error("opened") }
        val onnx = mapOf(Runtime.ONNX to never)
        val messages = listOf(
            assertFails<NotEnoughMemoryException> { loader(onnx, available = 1000).load(bundle, Settings()) },
            assertFails<WrongRuntimeException> { loader(mapOf(Runtime.EXECUTORCH to never)).load(bundle, Settings()) },
            assertFails<WrongRuntimeException> { loader(onnx).load(bundle, Settings(runtime = Runtime.EXECUTORCH)) },
            assertFails<NotABundleException> { loader(onnx).load(temporary.root, Settings()) },
        ).map { it.message }
        assertEquals(4, messages.toSet().size)
        assertNull("the user stopped the check of the files", loader(onnx).load(bundle, Settings()) { _, _ -> false })
    }

    @Test
    fun `what a load that fails has taken is free again`() {
        val counting = CountingAllocator()
        val factories = mapOf(Runtime.ONNX to EngineFactory { _, _, _ -> engine })
        fun load(allocator: BufferAllocator) = BundleLoader(factories, allocator, CrashGuard(note), null) { 1L shl 40 }.load(bundle, Settings())
        engine.failsToBind = true
        assertFails<EngineException> { load(counting) }
        assertEquals(listOf(true, 0L), listOf(counting.count > 2, counting.bytes))
        val small = object : BufferAllocator {
            override fun allocate(bytes: Int) = if (counting.count < 9) counting.allocate(bytes) else throw NotEnoughMemoryException("no memory")

            override fun release(buffer: java.nio.ByteBuffer) = counting.release(buffer)
        }
        counting.count = 6
        assertFails<NotEnoughMemoryException> { load(small) }
        assertEquals(listOf(9L, 0L), listOf(counting.count.toLong(), counting.bytes))
    }

    @Test
    fun `a runtime that fails is closed, and the bundle is not suspect`() {
        engine.failsToBind = true
        assertFails<EngineException> { loader().load(bundle, Settings()) }
        assertTrue(engine.closed)
        assertNull(CrashGuard(note).suspect())
    }
}
