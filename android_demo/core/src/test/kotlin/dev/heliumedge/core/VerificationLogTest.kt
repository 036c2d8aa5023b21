package dev.heliumedge.core

import org.junit.Assert.assertEquals
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.io.File
import java.io.IOException
import java.io.RandomAccessFile

class VerificationLogTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val bundle = Vectors.bundle("in_place")
    private val file by lazy { File(temporary.root, "verified.txt") }

    private fun import(log: VerificationLog?): BundleFolder {
        val store = BundleStore(File(temporary.root, "bundles").apply { mkdirs() })
        return BundleFolder.open(BundleImporter(store, log).import({ File(bundle, it).inputStream() }, { Long.MAX_VALUE }) { _, _ -> true }!!)
    }

    /** Bytes that a check of the files hashes: what it reports before its last word. */
    private fun hashed(bundle: BundleFolder, log: VerificationLog): Long {
        val reports = ArrayList<Long>()
        val before = bytesRead()
        assertTrue(bundle.verify(log) { done, _ -> reports.add(done) })
        val read = bytesRead() - before
        val found = reports.dropLast(1).zipWithNext { one, next -> maxOf(0, next - one) }.sum() + (reports.dropLast(1).firstOrNull() ?: 0)
        if (before >= 0) assertTrue("$read bytes were read, $found told of", read in found..found + 200_000)
        return found
    }

    /** Of this process since its start; -1 where the system does not tell. */
    private fun bytesRead(): Long = try {
        File("/proc/self/io").readLines().first { it.startsWith("rchar") }.substringAfter(": ").toLong()
    } catch (_: IOException) {
        -1
    }

    @Test
    fun `a load right after an import hashes nothing, and another one later neither`() {
        val log = VerificationLog(file)
        val imported = import(log)
        assertEquals(0L, hashed(imported, log))
        assertEquals("in a later process", 0L, hashed(imported, VerificationLog(file)))
        val again = import(log)
        assertEquals("also where it takes another one's place", 0L, hashed(again, log))
        assertEquals("what another log knows does not count", imported.manifest.totalBytes, hashed(again, VerificationLog(File(temporary.root, "other"))))
    }

    @Test
    fun `an import without a log, or with one that cannot be written, is a good one`() {
        assertEquals(import(null).manifest.totalBytes, hashed(import(null), VerificationLog(file)))
        val folder = temporary.newFolder("log")
        import(VerificationLog(folder))
    }

    @Test
    fun `other bytes under the old time of writing are found`() {
        val log = VerificationLog(file)
        val imported = import(log)
        val weights = imported.file("weights.bin")
        val written = weights.lastModified()
        // File systems tell times by ticks of the clock.
        Thread.sleep(50)
        weights.writeBytes(weights.readBytes().also { it[4_000_000] = (it[4_000_000] + 1).toByte() })
        assertTrue(weights.setLastModified(written))
        assertEquals(written, weights.lastModified())
        assertFails<DamagedFileException> { imported.verify(log) }
    }

    @Test
    fun `what is written while it is read is not taken for verified`() {
        val imported = import(null)
        val weights = imported.file("weights.bin")
        val log = VerificationLog(file)
        Thread.sleep(50)
        val first = imported.manifest.files.takeWhile { it.path != "weights.bin" }.sumOf { it.bytes }
        var touched = false
        imported.verify(log) { done, _ ->
            // Behind its first megabyte, which was right.
            if (!touched && done > first) {
                touched = true
                RandomAccessFile(weights, "rw").use { it.write(it.read().inv()) }
            }
            true
        }
        assertTrue(touched)
        assertFails<DamagedFileException> { imported.verify(log) }
    }
}
