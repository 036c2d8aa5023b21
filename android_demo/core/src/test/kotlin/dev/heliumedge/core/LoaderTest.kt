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
            loaded.generate("The device", Settings(maxNewTokens = 2), StopSignal(), short) { _, _ -> }
            assertEquals(2, short.newTokens)
        }
        assertTrue(engine.closed)
        assertNull(CrashGuard(note).suspect())
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
    fun `a runtime that fails is closed, and the bundle is not suspect`() {
        engine.failsToBind = true
        assertFails<EngineException> { loader().load(bundle, Settings()) }
        assertTrue(engine.closed)
        assertNull(CrashGuard(note).suspect())
    }

    @Test
    fun `an import copies, goes on where it stopped, and appears at once`() {
        val bundles = temporary.newFolder("bundles")
        val importer = BundleImporter(bundles)
        val opened = ArrayList<String>()
        val source = BundleSource { path -> opened.add(path); File(bundle, path).takeIf { it.exists() }?.inputStream() }
        assertNull(importer.import(source, 1L shl 40) { done, total -> done < total / 2 })
        assertEquals("no bundle yet", listOf("helium-tiny-onnx-int4.partial"), bundles.list()!!.toList())
        opened.clear()
        val folder = importer.import(source, 1L shl 40) { _, _ -> true }!!
        assertTrue("the small files were there", "tokenizer.json" !in opened && "weights.bin" in opened)
        assertTrue(BundleFolder.open(folder).verify())
        assertEquals(listOf("helium-tiny-onnx-int4"), bundles.list()!!.toList())
        assertFails<StorageException> { importer.import(source, 10) { _, _ -> true } }
        assertFails<NotABundleException> { importer.import({ null }, 1L shl 40) { _, _ -> true } }
        assertFails<MissingFileException> {
            BundleImporter(temporary.newFolder("other")).import({ if (it == "weights.bin") null else File(bundle, it).inputStream() }, 1L shl 40) { _, _ -> true }
        }
    }
}
