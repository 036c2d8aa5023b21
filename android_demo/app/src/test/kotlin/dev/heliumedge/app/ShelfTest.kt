package dev.heliumedge.app

import dev.heliumedge.core.HeliumException
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.security.MessageDigest

class ShelfTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val bundles get() = File(temporary.root, "bundles")
    private val caches get() = File(temporary.root, "caches")
    private val shelf get() = Shelf(bundles, caches)

    private fun bundle(name: String, manifest: String = name): File {
        val folder = File(bundles, name)
        File(folder, "graphs").mkdirs()
        File(folder, "graphs/any.onnx").writeText("12345")
        if (manifest.isNotEmpty()) File(folder, "helium-edge.json").writeText(manifest)
        return folder
    }

    private fun cache(name: String, bytes: Int) = File(caches.apply { mkdirs() }, "$name.safetensors").apply { writeBytes(ByteArray(bytes)) }

    private fun sha(text: String) = MessageDigest.getInstance("SHA-256").digest(text.toByteArray()).joinToString("") { "%02x".format(it) }

    private fun listed() = shelf.list().map { "${it.kind} ${it.name} ${it.bytes}" }

    @Test
    fun `everything that takes space is listed, bundles first`() {
        bundle("b")
        bundle("a")
        bundle("pushed", manifest = "")
        bundle("copied.partial")
        bundle("old.replaced")
        bundle("older.deleted")
        File(bundles, "note.txt").writeText("x")
        cache(sha("a").take(16), 3)
        cache("0123456789abcdef", 4)
        assertEquals(
            listOf("BUNDLE a 6", "BUNDLE b 6", "UNFINISHED copied 19", "UNFINISHED pushed 5", "CACHE 0123456789abcdef 4", "CACHE a 3"),
            listed(),
        )
    }

    @Test
    fun `a bundle goes with its cache, and nothing else does`() {
        bundle("a")
        bundle("b")
        cache(sha("a").take(16), 3)
        cache(sha("b").take(16), 4)
        shelf.delete(shelf.list().first())
        assertEquals(listOf("BUNDLE b 6", "CACHE b 4"), listed())
        assertEquals(File(caches, "${sha("b").take(16)}.safetensors"), shelf.cacheOf(sha("b")))
    }

    @Test
    fun `what was left behind goes`() {
        bundle("copied.partial")
        cache("0123456789abcdef", 4)
        shelf.list().forEach(shelf::delete)
        assertEquals(emptyList<String>(), listed())
    }

    @Test
    fun `what cannot be deleted is named, and is no half bundle`() {
        val folder = bundle("a")
        val stored = shelf.list().single()
        File(folder, "helium-edge.json").delete()
        try {
            shelf.delete(stored)
            throw AssertionError("it was deleted")
        } catch (error: HeliumException) {
            assertTrue("$error", folder.path in error.what)
        }
    }

    @Test
    fun `any text may be asked for`() {
        bundle("a")
        bundle("half", manifest = "")
        assertTrue(shelf.has("a"))
        for (name in listOf("", ".", "..", "half", "../bundles/a", "a/", "b")) assertFalse(name, shelf.has(name))
        assertEquals(emptyList<Stored>(), Shelf(File(temporary.root, "none"), File(temporary.root, "neither")).list())
    }
}
