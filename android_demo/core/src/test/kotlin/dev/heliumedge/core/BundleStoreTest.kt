package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNotNull
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.IOException
import java.nio.file.Files
import java.util.concurrent.CountDownLatch
import java.util.concurrent.atomic.AtomicBoolean
import java.util.concurrent.atomic.AtomicReference
import kotlin.concurrent.thread

class BundleStoreTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val bundle = Vectors.bundle("in_place")
    private val name = "helium-tiny-onnx-int4"
    private lateinit var folder: File
    private lateinit var store: BundleStore
    private lateinit var storage: Storage

    @Before
    fun prepare() {
        folder = temporary.newFolder("bundles")
        store = BundleStore(folder)
        storage = Storage(store, File(temporary.root, "caches"), File(temporary.root, "reports"))
    }

    private fun import(cutAt: Long = Long.MAX_VALUE): File? =
        BundleImporter(store).import({ File(bundle, it).inputStream() }, { Long.MAX_VALUE }) { done, _ -> done < cutAt }

    private fun files(of: File) = of.walk().filter { it.isFile }.map { it.relativeTo(of).path }.toSet()

    @Test
    fun `what an abandoned import of another bundle left is not published`() {
        val partial = File(folder, "$name.partial")
        val listed = BundleFolder.open(bundle).manifest.files.map { it.path }.toSet() + MANIFEST_NAME
        val outside = temporary.newFolder("outside")
        File(outside, "precious").writeText("kept")
        for (path in listOf("old.onnx", "sub/old.bin", "sub/deeper/old.bin", MANIFEST_NAME)) {
            File(partial, path).apply { parentFile.mkdirs() }.writeText("stale")
        }
        Files.createSymbolicLink(File(partial, "link").toPath(), outside.toPath())
        File(partial, "weights.bin").writeBytes(ByteArray(5))
        var asked = false
        val space = { _: Long ->
            asked = true
            assertFalse("their space is free before more is asked for", File(partial, "old.onnx").exists())
            Long.MAX_VALUE
        }
        val imported = BundleImporter(store).import({ File(bundle, it).inputStream() }, space) { _, _ -> true }!!
        assertTrue(asked)
        assertEquals(listed, files(imported))
        assertFalse(File(imported, "sub").exists())
        assertEquals("a link is not followed", listOf("precious"), outside.list()!!.toList())
        // What appeared while it was copied is not published either.
        val late = BundleImporter(store).import({ path -> File(partial.apply { mkdirs() }, "late").writeText(path).let { File(bundle, path).inputStream() } }, { Long.MAX_VALUE }) { _, _ -> true }!!
        assertEquals(listed, files(late))
    }

    @Test
    fun `bundles, abandoned imports and kept caches are listed with their bytes, and go`() {
        assertEquals(emptyList<StoredItem>(), storage.items())
        val imported = import()!!
        val opened = BundleFolder.open(imported)
        assertNull(import(cutAt = 3_000_000))
        storage.cacheOf(opened).writeBytes(ByteArray(77))
        File(temporary.root, "caches/0123.safetensors").writeBytes(ByteArray(5))
        val items = storage.items()
        val manifest = File(imported, MANIFEST_NAME).length()
        val expected = listOf(
            listOf(StoredKind.BUNDLE, name, opened.manifest.totalBytes + manifest),
            listOf(StoredKind.ABANDONED_IMPORT, name, files(File(folder, "$name.partial")).sumOf { File(folder, "$name.partial/$it").length() }),
            listOf(StoredKind.KEPT_CACHE, "0123.safetensors", 5L), listOf(StoredKind.KEPT_CACHE, name, 77L),
        )
        assertEquals(expected, items.map { listOf(it.kind, it.name, it.bytes) })
        assertTrue("${items[1].bytes}", items[1].bytes >= 3_000_000)
        storage.delete(items[1])
        assertEquals(listOf(name), folder.list()!!.toList())
        items.drop(2).forEach(storage::delete)
        assertEquals(emptyList<String>(), File(temporary.root, "caches").list()!!.toList())
        storage.delete(items[2])
        storage.delete(items[0])
        assertEquals(emptyList<String>(), folder.list()!!.toList())
        assertFails<StorageException> { storage.delete(items[0]) }
        assertFails<StorageException> { store.delete(temporary.newFolder("elsewhere")) }
    }

    @Test
    fun `the cache of a bundle goes behind it, and not while another bundle uses it`() {
        val imported = import()!!
        imported.copyRecursively(File(folder, "twin"))
        val cache = storage.cacheOf(BundleFolder.open(imported)).apply { writeText("kept") }
        val (first, twin) = storage.items().filter { it.kind == StoredKind.BUNDLE }
        storage.delete(twin)
        assertTrue("it is that of $name as well", cache.exists())
        val elsewhere = StoredItem(StoredKind.BUNDLE, "elsewhere", 0, temporary.newFolder("elsewhere").also { File(imported, MANIFEST_NAME).copyTo(File(it, MANIFEST_NAME)) })
        assertFails<StorageException> { storage.delete(elsewhere) }
        assertTrue("what cannot be deleted keeps it", cache.exists())
        storage.delete(first)
        assertFalse(cache.exists())
    }

    @Test
    fun `a manifest that cannot be read hides nothing else`() {
        import()
        val broken = File(folder, "broken").apply { mkdirs() }
        // A file that the system has and nobody can read at its beginning.
        Files.createSymbolicLink(File(broken, MANIFEST_NAME).toPath(), File("/proc/self/mem").toPath())
        assertFails<StorageException> { BundleFolder.open(broken) }
        val items = storage.items()
        assertEquals(listOf("broken", name), items.map { it.name })
        storage.delete(items[0])
        assertEquals(listOf(name), folder.list()!!.toList())
    }

    @Test
    fun `reports are listed, and go`() {
        File(temporary.root, "reports").mkdirs()
        File(temporary.root, "reports/report-1.txt").writeText("bad")
        val item = storage.items().single()
        assertEquals(listOf(StoredKind.REPORT, "report-1.txt", 3L), listOf(item.kind, item.name, item.bytes))
        storage.delete(item)
        assertEquals(emptyList<StoredItem>(), storage.items())
        assertEquals(emptyList<StoredItem>(), Storage(store, File(temporary.root, "caches")).items())
    }

    @Test
    fun `a push that ends while it is listed is known as the bundle that it became`() {
        val pushed = File(folder, name)
        bundle.copyRecursively(pushed)
        assertTrue(File(pushed, MANIFEST_NAME).delete())
        assertNull(import(cutAt = 3_000_000))
        val items = storage.items()
        File(bundle, MANIFEST_NAME).copyTo(File(pushed, MANIFEST_NAME))
        val opened = BundleFolder.open(pushed)
        assertEquals(listOf(name to true, name to false), items.map { it.name to it.isFolderOf(opened) })
    }

    @Test
    fun `a push that was cut off is no bundle, and may go`() {
        File(folder, "tiny-v1.2/tokenizer").mkdirs()
        File(folder, "tiny-v1.2/weights.bin.part").writeBytes(ByteArray(9))
        assertEquals(emptyList<File>(), store.bundles())
        val item = storage.items().single()
        assertEquals(listOf(StoredKind.ABANDONED_IMPORT, "tiny-v1.2", 9L), listOf(item.kind, item.name, item.bytes))
        storage.delete(item)
        assertEquals(emptyList<String>(), folder.list()!!.toList())
    }

    @Test
    fun `a deletion that was killed is no bundle, and ends at the next chance`() {
        val trash = File(folder, "0-1.deleted").apply { mkdirs() }
        bundle.copyRecursively(trash, overwrite = true)
        assertEquals(emptyList<File>(), store.bundles())
        assertEquals("a screen only looks", true, trash.exists())
        store.recover()
        assertFalse(trash.exists())
    }

    @Test
    fun `an import that runs is neither abandoned nor deleted, nor begun twice`() {
        val within = CountDownLatch(1)
        val go = CountDownLatch(1)
        val running = thread {
            BundleImporter(store).import({ File(bundle, it).inputStream() }, { within.countDown(); go.await(); Long.MAX_VALUE }) { _, _ -> true }
        }
        try {
            within.await()
            val partial = File(folder, "$name.partial").apply { mkdirs() }
            assertEquals(emptyList<File>(), store.abandoned())
            assertEquals(Phrase.IMPORT_RUNS, assertFails<InvalidRequestException> { store.delete(partial) }.said.phrase)
            assertEquals(Phrase.IMPORT_RUNS, assertFails<InvalidRequestException> { import() }.said.phrase)
        } finally {
            go.countDown()
            running.join()
        }
        assertEquals(listOf(name), store.bundles().map { it.name })
        assertNotNull("it is over", import())
        assertEquals("the one before is gone with its bytes", listOf(name), folder.list()!!.toList())
        assertNull(import(cutAt = 0))
        assertEquals("what was stopped is abandoned", listOf("$name.partial"), store.abandoned().map { it.name })
    }

    @Test
    fun `looking at the bundles undoes no import that ends meanwhile`() {
        val manifest = fakeManifest().copy(name = "tiny")
        val ended = AtomicBoolean()
        val missing = AtomicReference<String>()
        fun publish(round: Int): File {
            File(folder, "tiny.partial").mkdirs()
            return store.publish(manifest, "$round")
        }
        publish(0)
        // Of another store over the same folder, as an app that makes two has it.
        val lookers = List(2) {
            thread {
                val other = BundleStore(folder)
                while (!ended.get()) {
                    if (it == 0) other.recover()
                    if (other.bundle("tiny") == null) missing.compareAndSet(null, "${folder.list()!!.toList()}")
                }
            }
        }
        try {
            for (round in 1..400) assertEquals("$round", File(publish(round), MANIFEST_NAME).readText())
        } finally {
            ended.set(true)
            lookers.forEach(Thread::join)
        }
        assertNull("it was there all the time", missing.get())
        store.recover()
        assertEquals(listOf("tiny"), folder.list()!!.toList())
    }

    @Test
    fun `an import that was killed between its renames is put right`() {
        val old = File(folder, "tiny.replaced").apply { mkdirs() }
        File(old, MANIFEST_NAME).writeText("old")
        assertEquals(listOf("tiny"), store.bundles().map { it.name })
        File(folder, "tiny.replaced").mkdirs()
        assertEquals("old", File(store.bundle("tiny")!!, MANIFEST_NAME).readText())
        store.recover()
        assertEquals(listOf("tiny"), folder.list()!!.toList())
        // Nor does what is left in the way keep the next one from its end.
        File(folder, "tiny.replaced/sub").mkdirs()
        File(folder, "tiny.partial").mkdirs()
        assertEquals("new", File(store.publish(fakeManifest().copy(name = "tiny"), "new"), MANIFEST_NAME).readText())
        assertFails<IOException> { store.publish(fakeManifest().copy(name = "nothing"), "new") }
    }
}
