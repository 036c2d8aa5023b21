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
}

/**
 * Something that takes space and may be deleted.
 *
 * @property name What to call it: the bundle's name; of a cache whose bundle is gone that of its file.
 * @property bytes Space that it takes, by the sizes of its files.
 */
public class StoredItem internal constructor(public val kind: StoredKind, public val name: String, public val bytes: Long, internal val file: File)

/**
 * All that takes space in an app's folders, for a list of which a user deletes what is not wanted. It reads folders and
 * manifests and deletes gigabytes: no work for the thread of a screen.
 *
 * @param caches The folder of kept prompt caches; it need not be there yet.
 */
public class Storage(private val store: BundleStore, private val caches: File) {
    /**
     * Bundles, then what imports and pushes left, then kept caches, each by name.
     *
     * @throws StorageException A folder or a manifest cannot be read.
     */
    public fun items(): List<StoredItem> {
        val bundles = store.bundles()
        val owners = bundles.associateBy({ cacheName(sha256(File(it, MANIFEST_NAME)) { true }.orEmpty()) }, { it.name })
        val kept = caches.listFiles().orEmpty().filter { it.isFile }
        return bundles.map { StoredItem(StoredKind.BUNDLE, it.name, bytesOf(it), it) } +
            store.abandoned().map { StoredItem(StoredKind.ABANDONED_IMPORT, it.name.removeSuffix(PARTIAL), bytesOf(it), it) } +
            kept.map { StoredItem(StoredKind.KEPT_CACHE, owners[it.name] ?: it.name, bytesOf(it), it) }.sortedBy { it.name }
    }

    /**
     * Deletes an item. A bundle must not be loaded.
     *
     * @throws InvalidRequestException It is being imported.
     * @throws StorageException It cannot be deleted.
     */
    public fun delete(item: StoredItem) {
        if (item.kind != StoredKind.KEPT_CACHE) {
            store.delete(item.file)
        } else if (!item.file.delete() && item.file.exists()) {
            throw StorageException(Phrase.CANNOT_DELETE.with(item.name))
        }
    }

    /**
     * Where the prompt cache of a bundle is kept, whose folder is made where it lacks.
     *
     * @throws StorageException The manifest cannot be read any more.
     */
    public fun cacheOf(bundle: BundleFolder): File = File(caches.apply { mkdirs() }, cacheName(bundle.manifestSha256()))

    private fun cacheName(manifestSha256: String) = manifestSha256.take(CACHE_NAME_DIGITS) + CACHE_SUFFIX
}
