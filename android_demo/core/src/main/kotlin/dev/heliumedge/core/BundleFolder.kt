package dev.heliumedge.core

import java.io.File
import java.io.FileInputStream
import java.io.IOException
import java.security.MessageDigest

private const val MAX_MANIFEST_BYTES = 1L shl 20
private const val READ_BYTES = 1 shl 20

/** A bundle on this device's storage. Opening reads the manifest and the sizes; [verify] reads every byte. */
public class BundleFolder internal constructor(
    public val folder: File,
    public val manifest: Manifest,
    private val manifestHash: String = "",
) {
    /** One of its files. */
    public fun file(path: String): File = File(folder, path)

    /**
     * sha256 of the manifest, which lists those of all other files: what tells one bundle from another. It is that of the
     * manifest which was read, whatever lies in the folder since: another bundle may have taken its place.
     */
    public fun manifestSha256(): String = manifestHash

    /**
     * Compares the sha256 of every file with the manifest.
     *
     * @param log Remembers what was verified before, so that an unchanged file is read once in its life; null reads all.
     * @param progress Called with the bytes read so far and the bytes in all; return false to stop.
     * @return Whether all was read, and not stopped.
     * @throws DamagedFileException A file has other content; it is named.
     * @throws StorageException A file cannot be read.
     */
    public fun verify(log: VerificationLog? = null, progress: (done: Long, total: Long) -> Boolean = { _, _ -> true }): Boolean {
        val total = manifest.totalBytes
        var before = 0L
        for (entry in manifest.files) {
            val file = file(entry.path)
            // Looked at before it is read: what is written meanwhile does not count as verified.
            val state = log?.stateOf(file, entry)
            if (state == null || !log.knows(state)) {
                val found = sha256(file) { progress(before + it, total) } ?: return false
                if (found != entry.sha256) throw DamagedFileException(Phrase.FILE_CHANGED.with(entry.path))
                if (state != null) log.remember(listOf(state))
            }
            before += entry.bytes
        }
        return progress(total, total)
    }

    public companion object {
        /**
         * Opens a bundle: manifest, and presence and size of every file.
         *
         * @throws NotABundleException No folder, or one without a manifest.
         * @throws MissingFileException A listed file is not there.
         * @throws DamagedFileException A file has another size, or the manifest another content than it was written with.
         * @throws HeliumException What [ManifestReader.parse] throws.
         */
        public fun open(folder: File): BundleFolder {
            if (!folder.isDirectory) throw NotABundleException(Phrase.NO_FOLDER.with(folder.path))
            val file = File(folder, MANIFEST_NAME)
            if (!file.isFile) throw NotABundleException(Phrase.NO_MANIFEST.with(folder.path))
            if (file.length() > MAX_MANIFEST_BYTES) throw ManifestException("${file.length()} bytes is no manifest")
            val bytes = readBytes(file)
            val text = bytes.toString(Charsets.UTF_8)
            val manifest = ManifestReader.parse(text)
            ManifestSeal.problem(text, manifest.schemaVersion)?.let { throw DamagedFileException("$MANIFEST_NAME $it") }
            manifest.files.forEach { checkSize(folder, it) }
            return BundleFolder(folder, manifest, hexadecimal(MessageDigest.getInstance("SHA-256").digest(bytes)))
        }
    }
}

/** The whole of a UTF-8 text file. */
internal fun readText(file: File): String = readBytes(file).toString(Charsets.UTF_8)

private fun readBytes(file: File): ByteArray = try {
    file.readBytes()
} catch (error: IOException) {
    throw StorageException(Phrase.CANNOT_READ.with(file.name, error.message.orEmpty()), error)
}

private fun checkSize(folder: File, entry: FileSpec) {
    val file = File(folder, entry.path)
    if (!file.isFile) throw MissingFileException(Phrase.FILE_MISSING.with(entry.path, entry.bytes))
    if (!canonical(file).startsWith(canonical(folder) + File.separator)) {
        throw UnsafePathException("${entry.path} is a link that leaves the bundle")
    }
    val found = file.length()
    if (found < entry.bytes) throw DamagedFileException(Phrase.FILE_TRUNCATED.with(entry.path, found, entry.bytes))
    if (found > entry.bytes) throw DamagedFileException(Phrase.FILE_LONGER.with(entry.path, found, entry.bytes))
}

private fun canonical(file: File): String = try {
    file.canonicalPath
} catch (error: IOException) {
    throw StorageException("${file.path} cannot be resolved: ${error.message}", error)
}

/** sha256 in hexadecimal, or null when [goOn] said no. */
internal fun sha256(file: File, goOn: (Long) -> Boolean): String? {
    val digest = MessageDigest.getInstance("SHA-256")
    val chunk = ByteArray(READ_BYTES)
    var done = 0L
    try {
        FileInputStream(file).use { stream ->
            while (true) {
                val count = stream.read(chunk)
                if (count < 0) break
                digest.update(chunk, 0, count)
                done += count
                if (!goOn(done)) return null
            }
        }
    } catch (error: IOException) {
        throw StorageException(Phrase.CANNOT_READ.with(file.name, error.message.orEmpty()), error)
    }
    return hexadecimal(digest.digest())
}
