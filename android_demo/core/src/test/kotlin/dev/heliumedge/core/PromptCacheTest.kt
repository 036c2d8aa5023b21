package dev.heliumedge.core

import org.junit.Assert.assertArrayEquals
import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.nio.ByteBuffer

class PromptCacheTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val bundle = "5e".repeat(32)
    private val cases = Vectors.cases("prompt-caches/caches.json")

    private class Keeping : BufferAllocator {
        val buffers = ArrayList<ByteBuffer>()

        override fun allocate(bytes: Int) = BufferAllocator.Direct.allocate(bytes).also { buffers.add(it) }
    }

    private fun decoder(case: Case, allocator: BufferAllocator = BufferAllocator.Direct): Decoder {
        val manifest = fakeManifest(batched = case.flag("batched"))
        val dtype = Dtype.values().first { it.id == case.text("dtype") }
        return Decoder(manifest.copy(cache = manifest.cache!!.copy(layers = case.int("layers"), dtype = dtype)), FakeEngine(50), allocator)
    }

    private fun ByteBuffer.bytes() = ByteArray(capacity()).also { duplicate().apply { clear() }.get(it) }

    private fun unhex(text: String) = ByteArray(text.length / 2) { text.substring(2 * it, 2 * it + 2).toInt(16).toByte() }

    /** Bytes of the slots of [count] tokens, with zeros behind them. */
    private fun ByteArray.first(count: Int): List<Byte> = mapIndexed { index, byte -> if (index % (size / 2) < count * size / 2 / 16) byte else 0 }

    @Test
    fun `files of the reference give its bits, and are written with its bytes`() {
        assertEquals(setOf("float32", "float16", "int8"), cases.map { it.text("dtype") }.toSet())
        for (case in cases) {
            val original = Vectors.file("prompt-caches/${case.text("name")}.safetensors")
            val keeping = Keeping()
            val decoder = decoder(case, keeping)
            assertEquals(7, PromptCache.load(original, decoder, bundle))
            assertEquals(case.ints("ids"), decoder.cachedTokens().toList())
            assertEquals(7, decoder.position)
            val expected = case.texts("buffers").map { unhex(it).first(7) }
            assertEquals(case.text("name"), expected, keeping.buffers.map { it.bytes().toList() })
            val written = File(Vectors.file("written").apply { mkdirs() }, original.name)
            assertEquals(7, PromptCache.save(written, decoder, bundle))
            assertArrayEquals(case.text("name"), ordered(original), written.readBytes())
            assertEquals("nothing is left beside it", emptyList<String>(), written.parentFile.list()!!.filter { it.startsWith(".") })
        }
    }

    /** The bytes of a file with its metadata in our order: that of the library is another one each time. */
    private fun ordered(file: File): ByteArray {
        val text = file.readBytes().toString(Charsets.ISO_8859_1)
        val metadata = Regex("""\{"__metadata__":\{[^}]*}""")
        val ours = """{"__metadata__":{"format":"helium-edge/prompt-cache","version":"1","bundle":"$bundle"}"""
        assertEquals(ours.length, metadata.find(text)!!.value.length)
        return text.replaceFirst(metadata, ours).toByteArray(Charsets.ISO_8859_1)
    }

    @Test
    fun `what the reference refuses is refused in one line, and changes nothing`() {
        val hostile = Vectors.cases("prompt-caches/hostile.json")
        assertTrue("${hostile.size}", hostile.size > 40 && hostile.count { it.text("verdict") == "ok" } >= 3)
        val whole = Vectors.file("prompt-caches/int8.safetensors")
        val messages = HashSet<String>()
        for (case in hostile) {
            val keeping = Keeping()
            val decoder = decoder(cases.first { it.text("name") == "int8" }, keeping)
            PromptCache.load(whole, decoder, bundle)
            decoder.rewind(3)
            val before = keeping.buffers.map { it.bytes().toList() }
            val file = Vectors.file("prompt-caches/${case.text("file")}")
            if (case.text("verdict") == "ok") {
                assertEquals(case.text("what"), 7, PromptCache.load(file, decoder, bundle))
                continue
            }
            val error = try {
                assertFails<PromptCacheException> { PromptCache.load(file, decoder, bundle) }
            } catch (failed: AssertionError) {
                throw AssertionError("${case.text("what")}: ${case.text("verdict")}", failed)
            }
            assertTrue(error.what, '\n' !in error.what && error.what.length < 250 && file.name in error.what)
            if ("overflow" in case.text("what")) assertTrue(error.what, "does not take" in error.what)
            messages.add(error.what.substringAfter(": "))
            assertEquals(case.text("what"), 3, decoder.position)
            assertEquals(3, decoder.cachedTokens().size)
            assertEquals(case.text("what"), before, keeping.buffers.map { it.bytes().toList() })
        }
        assertTrue("messages tell causes apart: $messages", messages.size > 25)
        assertFails<PromptCacheException> { PromptCache.load(File("no such file"), decoder(cases[0]), bundle) }
    }

    @Test
    fun `a file that cannot be written leaves nothing`() {
        val decoder = decoder(cases[0])
        val file = File(temporary.root, "cache")
        assertFails<InvalidRequestException> { PromptCache.save(file, decoder, bundle) }
        PromptCache.load(Vectors.file("prompt-caches/float32.safetensors"), decoder, bundle)
        assertEquals(2, PromptCache.save(file, decoder, bundle, tokens = 2))
        assertFails<StorageException> { PromptCache.save(File(temporary.root, "no/folder"), decoder, bundle) }
        File(temporary.root, "taken/x").mkdirs()
        assertFails<StorageException> { PromptCache.save(File(temporary.root, "taken"), decoder, bundle) }
        assertEquals(setOf("cache", "taken"), temporary.root.list()!!.toSet())
        assertEquals(2, PromptCache.load(file, decoder, bundle))
        assertFails<PromptCacheException> { PromptCache.load(file, decoder, "00") }
        assertEquals(2, decoder.position)
    }

    @Test
    fun `only what is new is run, whoever used the decoder before`() {
        val engine = FakeEngine(50) { 30 }
        val decoder = Decoder(fakeManifest(), engine)
        val case = cases.first { it.text("name") == "float32" }
        decoder.prefill(intArrayOf(5, 6, 7, 8, 9))
        decoder.decode(10)
        assertEquals(listOf(5, 6, 7, 8, 9, 10), decoder.cachedTokens().toList())
        assertEquals(4, decoder.follow(intArrayOf(5, 6, 7, 8, 11)))
        assertEquals(4, decoder.position)
        assertEquals("the last one is run again", 3, decoder.follow(intArrayOf(5, 6, 7, 8)))
        decoder.seek(9)
        decoder.decode(12)
        assertEquals("what lies behind a gap is not known", listOf(5, 6, 7), decoder.cachedTokens().toList())
        assertEquals(3, decoder.follow(intArrayOf(5, 6, 7, 8)))
        decoder.decode(13)
        assertEquals(listOf(5, 6, 7, 13), decoder.cachedTokens().toList())
        decoder.fillCache()
        assertEquals(0, decoder.follow(intArrayOf(5, 6)))
        assertEquals(7, case.ints("ids").size)
    }

    @Test
    fun `shorter caches are filled anew`() {
        val engine = FakeEngine(50) { 30 }
        val decoder = Decoder(fakeManifest(buckets = listOf(8)), engine)
        decoder.prefill(IntArray(5) { it })
        decoder.decode(6)
        val file = File(temporary.root, "cache")
        PromptCache.save(file, decoder, bundle)
        val rows = engine.calls.last().cache.map { it.take(5 * 3) }
        decoder.rewind()
        decoder.prefill(IntArray(6) { 20 + it })
        decoder.decode(6)
        assertTrue(engine.calls.last().cache.map { it.take(5 * 3) } != rows)
        PromptCache.load(file, decoder, bundle)
        decoder.decode(7)
        assertEquals("slots of the shorter cache", 8 * 2 * 3, engine.calls.last().cache[0].size)
        assertEquals(rows, engine.calls.last().cache.map { it.take(5 * 3) })
    }
}
