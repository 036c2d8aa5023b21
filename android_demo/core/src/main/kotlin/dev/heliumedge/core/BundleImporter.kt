package dev.heliumedge.core

import java.io.File
import java.io.FileInputStream
import java.io.FileOutputStream
import java.io.IOException
import java.io.InputStream
import java.security.MessageDigest

private const val COPY_BYTES = 1 shl 20

/** A bundle somewhere that is no folder of files, as behind Android's document picker. */
public fun interface BundleSource {
    /**
     * Opens a file by its path in the bundle; null when it is not there.
     *
     * @throws IOException It cannot be read.
     */
    public fun open(path: String): InputStream?
}

/**
 * Copies a bundle into the app's own storage, where runtimes can map it.
 *
 * Files go into `NAME.partial`, byte by byte behind what an earlier import left there, and are hashed on the way. Only
 * when all are right does the folder get its name; a bundle of that name which is there already stays until then. So
 * the app may be killed at any time: what is called a bundle is one, and the next import goes on.
 *
 * @param log Remembers what was hashed, so that a load right afterwards reads nothing of it again; null remembers nothing.
 * @param check Refuses a bundle by its manifest, before anything is copied: [BundleLoader.check], for what would not run.
 */
public class BundleImporter(private val store: BundleStore, private val log: VerificationLog? = null, private val check: (Manifest) -> Unit = {}) {
    /**
     * Copies all files, and checks their sizes and contents.
     *
     * @param freeBytes Space on the storage, asked for with the bytes that are still to come; on Android what the system
     *   would make free for the app (`StorageManager.getAllocatableBytes`), and has then made free (`allocateBytes`).
     * @param progress Called with the bytes so far and in all; return false to stop.
     * @return The folder, or null when [progress] stopped it.
     * @throws NotABundleException The source has no manifest.
     * @throws StorageException Too little space, or reading or writing fails.
     * @throws MissingFileException The source lacks a file.
     * @throws DamagedFileException A file of the source is not the one that the manifest lists.
     * @throws InvalidRequestException An import of the same bundle runs already.
     * @throws HeliumException What `check` throws.
     */
    public fun import(source: BundleSource, freeBytes: (needed: Long) -> Long, progress: (Long, Long) -> Boolean): File? {
        store.recover()
        val text = read(source) ?: throw NotABundleException(Phrase.SOURCE_NO_MANIFEST.with())
        val manifest = ManifestReader.parse(text)
        ManifestSeal.problem(text, manifest.schemaVersion)?.let { throw DamagedFileException("$MANIFEST_NAME $it") }
        check(manifest)
        return store.importing(manifest.name) { copy(source, manifest, text, freeBytes, progress) }
    }

    private fun copy(
        source: BundleSource,
        manifest: Manifest,
        text: String,
        freeBytes: (needed: Long) -> Long,
        progress: (Long, Long) -> Boolean,
    ): File? {
        val partial = store.partial(manifest.name)
        // First, because it frees space.
        storing(manifest.name) { store.tidy(manifest) }
        val missing = manifest.files.sumOf { it.bytes - minOf(it.bytes, File(partial, it.path).length()) }
        val free = freeBytes(missing)
        if (missing > free) {
            throw StorageException(Phrase.NO_SPACE.with(missing, manifest.totalBytes, free))
        }
        var done = 0L
        val states = ArrayList<String>()
        for (entry in manifest.files) {
            val before = done
            val file = File(partial, entry.path)
            if (!bring(source, entry, file) { progress(before + it, manifest.totalBytes) }) return null
            if (log != null) states.add(log.stateOf(file, entry, File(store.place(manifest.name), entry.path)))
            done += entry.bytes
        }
        return storing(manifest.name) { store.publish(manifest, text) }.also { remember(states) }
    }

    private fun remember(states: List<String>) {
        try {
            log?.remember(states)
        } catch (_: StorageException) {
            // The bundle is there and right; a later process reads it once more.
        }
    }

    private fun read(source: BundleSource): String? = storing(MANIFEST_NAME) {
        source.open(MANIFEST_NAME)?.use { it.readBytes().toString(Charsets.UTF_8) }
    }

    /** Makes a file complete and right; what an import of another bundle of this name left is replaced. */
    private fun bring(source: BundleSource, entry: FileSpec, target: File, goOn: (Long) -> Boolean): Boolean {
        if (target.length() > entry.bytes) target.delete()
        val resumed = target.length() > 0
        val found = append(source, entry, target, goOn) ?: return false
        if (found == entry.sha256) return true
        target.delete()
        if (resumed && append(source, entry, target, goOn).also { if (it == null) return false } == entry.sha256) return true
        target.delete()
        throw DamagedFileException(Phrase.SOURCE_DAMAGED.with(entry.path))
    }

    /** Copies what is missing at the end of a file; sha256 of the whole, or null when [goOn] said no. */
    private fun append(source: BundleSource, entry: FileSpec, target: File, goOn: (Long) -> Boolean): String? = storing(entry.path) {
        target.parentFile.mkdirs()
        val digest = MessageDigest.getInstance("SHA-256")
        val there = if (target.isFile) FileInputStream(target).use { pump(it, Long.MAX_VALUE, goOn, digest, null) } ?: return null else 0L
        if (there < entry.bytes) {
            val stream = source.open(entry.path) ?: throw MissingFileException(Phrase.SOURCE_MISSING.with(entry.path))
            stream.use { input ->
                skip(input, there)
                FileOutputStream(target, true).use { output ->
                    // One byte more than listed is enough to see that it is too long.
                    pump(input, entry.bytes - there, { goOn(there + it) }, digest, output) ?: return null
                    if (input.read() >= 0) throw DamagedFileException(Phrase.SOURCE_LONGER.with(entry.path, entry.bytes))
                    output.fd.sync()
                }
            }
        }
        hexadecimal(digest.digest())
    }

    /** Reads at most [limit] bytes into [digest] and [output]; how many, or null when [goOn] said no. */
    private fun pump(input: InputStream, limit: Long, goOn: (Long) -> Boolean, digest: MessageDigest, output: FileOutputStream?): Long? {
        val chunk = ByteArray(COPY_BYTES)
        var done = 0L
        while (done < limit) {
            val count = input.read(chunk, 0, minOf(chunk.size.toLong(), limit - done).toInt())
            if (count < 0) break
            digest.update(chunk, 0, count)
            output?.write(chunk, 0, count)
            done += count
            if (!goOn(done)) return null
        }
        return done
    }

    private fun skip(input: InputStream, bytes: Long) {
        var left = bytes
        while (left > 0) {
            val skipped = input.skip(left)
            if (skipped > 0) {
                left -= skipped
            } else {
                if (input.read() < 0) throw IOException("it ends after ${bytes - left} bytes, of which $bytes were there before")
                left--
            }
        }
    }

    private inline fun <T> storing(what: String, block: () -> T): T = try {
        block()
    } catch (error: HeliumException) {
        throw error
    } catch (error: IOException) {
        throw StorageException(Phrase.CANNOT_COPY.with(what, error.message.orEmpty()), error)
    } catch (error: RuntimeException) {
        // Whatever the app behind the system's picker throws comes through to here.
        throw StorageException(Phrase.PROVIDER_FAILED.with(what, "${error.javaClass.simpleName}: ${error.message}"), error)
    }
}
