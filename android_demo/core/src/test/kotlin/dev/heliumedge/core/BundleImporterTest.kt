package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertNull
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.FilterInputStream
import java.io.IOException
import java.io.InputStream
import java.util.Random

private const val PLENTY = 1L shl 40

class BundleImporterTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val bundle = Vectors.bundle("in_place")
    private val name = "helium-tiny-onnx-int4"
    private lateinit var folder: File
    private lateinit var store: BundleStore

    /** Bytes that were read of the source. */
    private var read = 0L

    /** Byte at which the source fails, counted over all files. */
    private var cut = Long.MAX_VALUE

    @Before
    fun prepare() {
        folder = temporary.newFolder("bundles")
        store = BundleStore(folder)
    }

    private fun source(from: File = bundle) = BundleSource { path -> File(from, path).takeIf { it.exists() }?.let { Counted(it.inputStream()) } }

    private inner class Counted(stream: InputStream) : FilterInputStream(stream) {
        override fun read(): Int {
            if (read >= cut) throw IOException("cut at $cut")
            return super.read().also { if (it >= 0) read++ }
        }

        override fun read(bytes: ByteArray, offset: Int, length: Int): Int {
            if (read >= cut) throw IOException("cut at $cut")
            return super.read(bytes, offset, minOf(length.toLong(), cut - read).toInt()).also { if (it > 0) read += it }
        }
    }

    private fun import(from: File = bundle, free: Long = PLENTY) = BundleImporter(store).import(source(from), { free }) { _, _ -> true }

    @Test
    fun `an import appears at once, and only when it is right`() {
        assertNull("stopped", BundleImporter(store).import(source(), { PLENTY }) { done, total -> done < total / 2 })
        assertEquals("no bundle yet", emptyList<File>(), store.bundles())
        val reports = ArrayList<Long>()
        val imported = BundleImporter(store).import(source(), { PLENTY }) { done, _ -> reports.add(done) }!!
        assertEquals(listOf(name), folder.list()!!.toList())
        assertEquals(listOf(imported), store.bundles())
        assertEquals(imported, store.bundle(name))
        assertNull(store.bundle("../bundles"))
        assertTrue(BundleFolder.open(imported).verify())
        assertEquals("progress never falls", reports.sorted(), reports)
        assertEquals(BundleFolder.open(imported).manifest.totalBytes, reports.last())
    }

    @Test
    fun `an import that is cut at any byte goes on at that byte`() {
        val total = BundleFolder.open(bundle).manifest.totalBytes
        val manifest = File(bundle, MANIFEST_NAME).length()
        val random = Random(50)
        repeat(50) {
            folder.listFiles()!!.forEach { it.deleteRecursively() }
            read = 0
            cut = manifest + 1 + (random.nextDouble() * (total - 1)).toLong()
            assertFails<StorageException> { import() }
            val copied = read - manifest
            read = 0
            cut = Long.MAX_VALUE
            val imported = import()!!
            assertEquals("cut after $copied bytes: nothing is read twice", total - copied, read - manifest)
            assertTrue(BundleFolder.open(imported).verify())
        }
    }

    @Test
    fun `what is there already is not counted against the free space`() {
        val total = BundleFolder.open(bundle).manifest.totalBytes
        val error = assertFails<StorageException> { import(free = total - 1) }
        assertTrue(error.message!!, "$total bytes" in error.message!! && "${total - 1} are free" in error.message!!)
        cut = 4_000_000
        assertFails<StorageException> { import() }
        cut = Long.MAX_VALUE
        val left = total - folder.walk().filter { it.isFile }.sumOf { it.length() }
        assertFails<StorageException> { import(free = left - 1) }
        var needed = 0L
        BundleImporter(store).import(source(), { needed = it; left }) { _, _ -> true }
        assertEquals("room is made for what is missing alone", left, needed)
    }

    @Test
    fun `a damaged copy never takes the place of a good one`() {
        val good = import()!!
        val damaged = File(temporary.root, "damaged")
        bundle.copyRecursively(damaged)
        File(damaged, "weights.bin").let { file -> file.writeBytes(file.readBytes().also { it[1_000_000] = 1 }) }
        assertFails<DamagedFileException> { import(damaged) }
        File(damaged, "weights.bin").appendText("more")
        assertFails<DamagedFileException> { import(damaged) }
        File(damaged, "weights.bin").delete()
        assertFails<MissingFileException> { import(damaged) }
        File(damaged, MANIFEST_NAME).let { it.writeText(it.readText().replaceFirst("\"name\": \"helium-tiny", "\"name\": \"Helium-tiny")) }
        assertFails<DamagedFileException> { import(damaged) }
        assertFails<NotABundleException> { BundleImporter(store).import({ null }, { PLENTY }) { _, _ -> true } }
        assertTrue(BundleFolder.open(good).verify())
        assertEquals(listOf(good), store.bundles())
    }

    @Test
    fun `what another import left under the name is replaced`() {
        val partial = File(folder, "$name.partial").apply { mkdirs() }
        File(partial, "weights.bin").writeBytes(ByteArray(3_000_000))
        File(partial, "tokenizer.json").writeBytes(ByteArray(9_000_000))
        assertTrue(BundleFolder.open(import()!!).verify())
    }

    @Test
    fun `whatever the app with the folder throws is named`() {
        for (error in listOf(IllegalStateException("gone"), UnsupportedOperationException(), NullPointerException(), SecurityException("no"), IOException("cable"))) {
            val named = assertFails<StorageException> { BundleImporter(store).import({ throw error }, { PLENTY }) { _, _ -> true } }
            assertEquals(error, named.cause)
        }
    }

    @Test
    fun `a folder that may not be read is told from an empty one`() {
        assertEquals(emptyList<File>(), BundleStore(File(temporary.root, "none")).bundles())
        val file = temporary.newFile("file")
        assertFails<StorageException> { BundleStore(file).bundles() }
    }

    @Test
    fun `a hundred kills at random moments neither damage nor lose a bundle`() {
        // Two bundles of one name take each other's place, again and again, in a process that is killed.
        val other = File(temporary.root, "other")
        bundle.copyRecursively(other)
        File(other, MANIFEST_NAME).let { it.writeText(ManifestSeal.seal(it.readText().replaceFirst("{", "{\n  \"x_other\": true,"))) }
        val known = listOf(bundle, other).map { BundleFolder.open(it).manifestSha256() }
        import()
        val random = Random(100)
        var mixed = 0
        repeat(100) { kill ->
            val java = File(System.getProperty("java.home"), "bin/java").path
            val process = ProcessBuilder(
                java, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-cp", System.getProperty("java.class.path"),
                "dev.heliumedge.core.ImportLoopKt", folder.path, bundle.path, other.path,
            ).redirectErrorStream(true).start()
            assertEquals("begun", process.inputStream.read().toChar().toString(), ".")
            Thread.sleep((random.nextDouble() * 60).toLong(), random.nextInt(999_999))
            process.destroyForcibly().waitFor()
            mixed += if (folder.list()!!.toList() != listOf(name)) 1 else 0
            val found = store.bundles().single()
            val opened = BundleFolder.open(found)
            assertTrue("kill $kill", opened.verify())
            assertTrue("kill $kill: of one piece", opened.manifestSha256() in known)
        }
        println("100 kills, $mixed of them in the middle of an import")
        assertTrue("$mixed", mixed > 50)
        assertTrue(BundleFolder.open(import()!!).verify())
    }
}
