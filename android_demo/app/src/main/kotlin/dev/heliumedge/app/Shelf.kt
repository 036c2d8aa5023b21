package dev.heliumedge.app

import dev.heliumedge.core.MANIFEST_NAME
import dev.heliumedge.core.Phrase
import dev.heliumedge.core.StorageException
import java.io.File
import java.io.IOException
import java.security.MessageDigest

/**
 * Something of bundles that takes space.
 *
 * @property name Of the bundle that it is or belongs to.
 */
class Stored(val kind: Kind, val name: String, val file: File, val bytes: Long) {
    /** What it is. */
    enum class Kind {
        BUNDLE,

        /** An import or a push that did not come to its end; the next one of that bundle goes on with it. */
        UNFINISHED,

        /** What the cache of a bundle held, kept for a later start. */
        CACHE,
    }
}

/** What of bundles is on this device, and how its space is given back. */
class Shelf(private val bundles: File, private val caches: File) {
    /** Whether there is a bundle of that name; any text may be asked for. */
    fun has(name: String): Boolean = bundles.list().orEmpty().contains(name) && File(File(bundles, name), MANIFEST_NAME).isFile

    /** Everything, bundles first. */
    fun list(): List<Stored> {
        val folders = bundles.listFiles().orEmpty().filter { folder -> folder.isDirectory && GOING.none(folder.name::endsWith) }
        val kept = folders.map { Stored(if (isBundle(it)) Stored.Kind.BUNDLE else Stored.Kind.UNFINISHED, it.name.removeSuffix(PARTIAL), it, size(it)) }
        val owners = folders.filter(::isBundle).associate { cacheOf(it).name to it.name }
        val files = caches.listFiles().orEmpty().filter { it.isFile }
        val states = files.map { Stored(Stored.Kind.CACHE, owners[it.name] ?: it.nameWithoutExtension, it, it.length()) }
        return (kept + states).sortedWith(compareBy({ it.kind }, { it.name }))
    }

    /**
     * Deletes it, and with a bundle the cache that is of no use without it.
     *
     * @throws StorageException Something of it stays.
     */
    fun delete(stored: Stored) {
        if (stored.kind == Stored.Kind.BUNDLE) {
            val cache = cacheOf(stored.file)
            if (cache.exists() && !cache.delete()) throw stays(cache)
            // First, so that what a kill leaves is no bundle that lacks files.
            val manifest = File(stored.file, MANIFEST_NAME)
            if (!manifest.delete()) throw stays(manifest)
        }
        if (!stored.file.deleteRecursively()) throw stays(stored.file)
    }

    /** Where the cache of a bundle is kept. */
    fun cacheOf(sha256: String): File = File(caches, "${sha256.take(CACHE_NAME)}.safetensors")

    private fun cacheOf(bundle: File): File {
        val bytes = try {
            File(bundle, MANIFEST_NAME).readBytes()
        } catch (error: IOException) {
            throw StorageException(Phrase.CANNOT_READ.with(bundle.path, error.message.orEmpty()), error)
        }
        return cacheOf(MessageDigest.getInstance("SHA-256").digest(bytes).joinToString("") { "%02x".format(it) })
    }

    private fun isBundle(folder: File) = !folder.name.endsWith(PARTIAL) && File(folder, MANIFEST_NAME).isFile

    private fun size(folder: File): Long = folder.walk().filter { it.isFile }.sumOf { it.length() }

    private fun stays(file: File) = StorageException(Phrase.CANNOT_WRITE.with(file.path, "delete"))

    private companion object {
        const val CACHE_NAME = 16

        // As BundleStore calls what is not yet a bundle, and what is one no longer, which it deletes by itself.
        const val PARTIAL = ".partial"
        val GOING = listOf(".replaced", ".deleted")
    }
}
