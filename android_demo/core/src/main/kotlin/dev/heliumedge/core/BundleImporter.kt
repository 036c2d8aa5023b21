package dev.heliumedge.core

import java.io.File
import java.io.IOException
import java.io.InputStream
import java.io.OutputStream

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
 * Files go into `NAME.partial`, which gets its name at the end, so that a copy that was cut off is never taken for a
 * bundle; the next import leaves what is there in full size.
 */
public class BundleImporter(private val bundles: File) {
    /**
     * Copies all files and checks their sizes; [BundleLoader.load] checks their content.
     *
     * @param freeBytes Space on the storage.
     * @param progress Called with the bytes so far and in all; return false to stop.
     * @return The folder, or null when [progress] stopped it.
     * @throws NotABundleException The source has no manifest.
     * @throws StorageException Too little space, or reading or writing fails.
     * @throws MissingFileException The source lacks a file.
     */
    public fun import(source: BundleSource, freeBytes: Long, progress: (Long, Long) -> Boolean): File? {
        val text = read(source) ?: throw NotABundleException("the folder holds no $MANIFEST_NAME")
        val manifest = ManifestReader.parse(text)
        if (manifest.totalBytes > freeBytes) {
            throw StorageException("the bundle has ${manifest.totalBytes} bytes, $freeBytes are free")
        }
        val name = manifest.name.map { if (it.isLetterOrDigit() || it in "-_") it else '_' }.joinToString("")
        val partial = File(bundles, "$name.partial")
        var done = 0L
        for (entry in manifest.files) {
            val target = File(partial, entry.path)
            if (target.length() != entry.bytes) {
                val stream = storing(entry.path) { source.open(entry.path) } ?: throw MissingFileException("${entry.path} is missing in the chosen folder")
                if (!copy(stream, target) { progress(done + it, manifest.totalBytes) }) return null
            }
            done += entry.bytes
        }
        return publish(partial, File(bundles, name), text)
    }

    private fun read(source: BundleSource): String? = storing(MANIFEST_NAME) {
        source.open(MANIFEST_NAME)?.use { it.readBytes().toString(Charsets.UTF_8) }
    }

    private fun copy(stream: InputStream, target: File, goOn: (Long) -> Boolean): Boolean = storing(target.name) {
        target.parentFile.mkdirs()
        stream.use { input -> target.outputStream().use { output -> pump(input, output, goOn) } }
    }

    private fun pump(input: InputStream, output: OutputStream, goOn: (Long) -> Boolean): Boolean {
        val chunk = ByteArray(COPY_BYTES)
        var done = 0L
        var count = input.read(chunk)
        while (count >= 0) {
            output.write(chunk, 0, count)
            done += count
            if (!goOn(done)) return false
            count = input.read(chunk)
        }
        return true
    }

    private fun publish(partial: File, folder: File, manifest: String): File = storing(folder.name) {
        File(partial, MANIFEST_NAME).writeText(manifest)
        if (folder.exists() && !folder.deleteRecursively()) throw StorageException("${folder.path} cannot be replaced")
        if (!partial.renameTo(folder)) throw StorageException("${partial.path} cannot be renamed")
        folder
    }

    private inline fun <T> storing(what: String, block: () -> T): T = try {
        block()
    } catch (error: IOException) {
        throw StorageException("$what cannot be copied: ${error.message}", error)
    }
}
