package dev.heliumedge.core

import java.io.File

private const val CACHE_SUFFIX = ".safetensors"
private const val CACHE_NAME_DIGITS = 16

/** What a [StoredItem] is. */
public enum class StoredKind {
    /** A whole bundle. */
    BUNDLE,

    /** What an import or a push left that was cut off. */
    ABANDONED_IMPORT,

    /** A prompt cache that was kept. */
    KEPT_CACHE,

    /** A report of an answer, of the app's own making. */
    REPORT,
}

/**
 * Something that takes space and may be deleted.
 *
 * @property name What to call it: the bundle's name; of a cache whose bundle is gone that of its file.
 * @property bytes Space that it takes, by the sizes of its files.
 */
public class StoredItem internal constructor(public val kind: StoredKind, public val name: String, public val bytes: Long, internal val file: File) {
    /** Whether it lies where this bundle does. A push that was incomplete in the list may have ended, and be loaded by now. */
    public fun isFolderOf(bundle: BundleFolder): Boolean = file.absoluteFile == bundle.folder.absoluteFile
}

/**
 * All that takes space in an app's folders, for a list of which a user deletes what is not wanted. It reads folders and
 * manifests and deletes gigabytes: no work for the thread of a screen.
 *
 * @param caches The folder of kept prompt caches; it need not be there yet.
 * @param reports The folder of kept reports, which need not be there either; null for an app that keeps none.
 */
public class Storage(private val store: BundleStore, private val caches: File, private val reports: File? = null) {
    /**
     * Bundles, then what imports and pushes left, then kept caches, then reports, each by name.
     *
     * @throws StorageException The folder of bundles cannot be read.
     */
    public fun items(): List<StoredItem> {
        val bundles = store.bundles()
        val owners = bundles.associateBy(::cacheNameIn) { it.name }
        return bundles.map { StoredItem(StoredKind.BUNDLE, it.name, bytesOf(it), it) } +
            store.abandoned().map { StoredItem(StoredKind.ABANDONED_IMPORT, it.name.removeSuffix(PARTIAL), bytesOf(it), it) } +
            filesIn(caches).map { StoredItem(StoredKind.KEPT_CACHE, owners[it.name] ?: it.name, bytesOf(it), it) }.sortedBy { it.name } +
            filesIn(reports).map { StoredItem(StoredKind.REPORT, it.name, bytesOf(it), it) }.sortedBy { it.name }
    }

    /**
     * Deletes an item. A bundle must not be loaded; its cache, which is of no use without it, goes behind it.
     *
     * @throws InvalidRequestException It is being imported.
     * @throws StorageException It cannot be deleted.
     */
    public fun delete(item: StoredItem) {
        if (item.kind == StoredKind.KEPT_CACHE || item.kind == StoredKind.REPORT) return delete(item.file, item.name)
        val cache = cacheNameIn(item.file)
        store.delete(item.file)
        // The same bundle may lie there under another name as well.
        if (cache != null && store.bundles().none { cacheNameIn(it) == cache }) delete(File(caches, cache), item.name)
    }

    private fun delete(file: File, name: String) {
        if (!file.delete() && file.exists()) throw StorageException(Phrase.CANNOT_DELETE.with(name))
    }

    /** Where the prompt cache of a bundle is kept, whose folder is made where it lacks. */
    public fun cacheOf(bundle: BundleFolder): File = File(caches.apply { mkdirs() }, cacheName(bundle.manifestSha256()))

    /** The name of the cache of the bundle in a folder; null where no manifest tells it, for which nothing else is to fail. */
    private fun cacheNameIn(folder: File): String? = try {
        File(folder, MANIFEST_NAME).takeIf { it.isFile }?.let { file -> sha256(file) { true } }?.let(::cacheName)
    } catch (_: StorageException) {
        null
    }

    private fun filesIn(folder: File?) = folder?.listFiles().orEmpty().filter { it.isFile }

    private fun cacheName(manifestSha256: String) = manifestSha256.take(CACHE_NAME_DIGITS) + CACHE_SUFFIX
}
