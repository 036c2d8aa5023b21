package dev.heliumedge.core

import java.io.File
import java.io.FileOutputStream
import java.io.IOException
import java.util.UUID

/** Behind the name of a bundle that an import collects. */
internal const val PARTIAL = ".partial"
private const val REPLACED = ".replaced"
private const val DELETED = ".deleted"

/**
 * The folder with the bundles of an app: which there are, how an imported one takes its place among them, and how one goes.
 *
 * Any thread may ask. Renames exclude each other in the process, so that none sees the middle of another; what takes long,
 * copying and deleting, holds nobody up.
 */
public class BundleStore(private val folder: File) {
    /** Names of bundles that are being imported; touched under [RENAMES]. */
    private val importing = HashSet<String>()

    /**
     * The bundles by name, without what is still being imported. Renames at most, so that a screen may ask.
     *
     * @throws StorageException The folder is there and cannot be read, as one that another user of the device made.
     */
    public fun bundles(): List<File> = synchronized(RENAMES) {
        settle()
        val found = folder.listFiles()
        if (found == null && folder.exists()) throw StorageException(Phrase.NOT_ALLOWED.with(folder.path))
        found.orEmpty().filter { !isInternal(it) && File(it, MANIFEST_NAME).isFile }.sortedBy { it.name }
    }

    /** A bundle by the name of its folder; null where there is none. Any text may be asked for. */
    public fun bundle(name: String): File? = bundles().firstOrNull { it.name == name }

    /**
     * What imports and pushes left that were cut off, and that no import continues now; the next one of the same bundle
     * would. A push sends the manifest last, and one that runs looks the same.
     */
    public fun abandoned(): List<File> = synchronized(RENAMES) {
        folder.listFiles().orEmpty().filter {
            if (it.name.endsWith(PARTIAL)) it.name.removeSuffix(PARTIAL) !in importing else !isInternal(it) && it.isDirectory && !File(it, MANIFEST_NAME).isFile
        }.sortedBy { it.name }
    }

    /**
     * Ends what an import or a deletion could not because the process was killed. It may delete gigabytes: no work for the
     * thread of a screen.
     */
    public fun recover() {
        synchronized(RENAMES) { settle() }
        folder.listFiles().orEmpty().filter { it.name.endsWith(DELETED) }.forEach { deleteTree(it) }
    }

    /**
     * Deletes a bundle, which must not be loaded, or what an abandoned import left; it is gone at once, also where the
     * process is killed while its bytes are freed.
     *
     * @throws InvalidRequestException It is being imported.
     * @throws StorageException It is none of this folder's, or cannot be deleted.
     */
    public fun delete(found: File) {
        synchronized(RENAMES) {
            if (found.name.endsWith(PARTIAL) && found.name.removeSuffix(PARTIAL) in importing) {
                throw InvalidRequestException(Phrase.IMPORT_RUNS.with(found.name.removeSuffix(PARTIAL)), Phrase.WAIT_OR_STOP.with())
            }
            if (File(folder, found.name).absoluteFile != found.absoluteFile || !discard(found)) {
                throw StorageException(Phrase.CANNOT_DELETE.with(found.name))
            }
        }
        recover()
    }

    /** Where the files of a bundle are collected. */
    internal fun partial(name: String) = File(folder, safe(name) + PARTIAL)

    /** Where it lies once it is complete. */
    internal fun place(name: String) = File(folder, safe(name))

    /**
     * Runs an import, which nobody deletes meanwhile.
     *
     * @throws InvalidRequestException One of the same name runs already.
     */
    internal fun <T> importing(name: String, import: () -> T): T {
        if (!synchronized(RENAMES) { importing.add(safe(name)) }) {
            throw InvalidRequestException(Phrase.IMPORT_RUNS.with(name), Phrase.WAIT_OR_STOP.with())
        }
        try {
            return import()
        } finally {
            synchronized(RENAMES) { importing.remove(safe(name)) }
        }
    }

    /**
     * Deletes what an earlier import of another bundle of this name left and the manifest does not list.
     *
     * @throws IOException It cannot be deleted.
     */
    internal fun tidy(manifest: Manifest) {
        // Lower case, because storage may take both names for one; a manifest never lists both.
        deleteUnlisted(partial(manifest.name), manifest.files.map { it.path.lowercase() }.toSet(), "")
    }

    /**
     * Gives a complete copy its name. The bundle that has it is moved aside first and deleted last, so that at any time
     * one of the two is whole under one of two names that [recover] knows.
     *
     * @throws IOException It cannot be written.
     */
    internal fun publish(manifest: Manifest, text: String): File {
        val partial = partial(manifest.name)
        val place = place(manifest.name)
        val replaced = File(folder, place.name + REPLACED)
        tidy(manifest)
        FileOutputStream(File(partial, MANIFEST_NAME)).use {
            it.write(text.toByteArray(Charsets.UTF_8))
            it.fd.sync()
        }
        synchronized(RENAMES) {
            settle()
            if (place.exists() && !place.renameTo(replaced)) throw IOException("${place.path} cannot be replaced")
            if (!partial.renameTo(place)) {
                replaced.renameTo(place)
                throw IOException("${partial.path} cannot be renamed")
            }
            discard(replaced)
        }
        recover()
        return place
    }

    /** Ends a [publish] that was killed between its renames. */
    private fun settle() {
        for (replaced in folder.listFiles().orEmpty().filter { it.name.endsWith(REPLACED) }) {
            val place = File(folder, replaced.name.removeSuffix(REPLACED))
            if (place.exists()) discard(replaced) else replaced.renameTo(place)
        }
    }

    /** Gives it a name that is nobody's, under which it is deleted later. */
    private fun discard(file: File): Boolean = file.renameTo(File(folder, UUID.randomUUID().toString() + DELETED))

    private fun isInternal(file: File) = listOf(PARTIAL, REPLACED, DELETED).any { file.name.endsWith(it) }

    private fun safe(name: String) = name.map { if (it.isLetterOrDigit() || it in "-_") it else '_' }.joinToString("")

    private companion object {
        /** One for the process: two stores may look after one folder. */
        val RENAMES = Any()
    }
}

private fun deleteUnlisted(folder: File, listed: Set<String>, path: String) {
    for (file in folder.listFiles().orEmpty()) {
        val name = path + file.name.lowercase()
        if (isFolder(file)) deleteUnlisted(file, listed, "$name/")
        // A folder goes where nothing is left in it.
        val unwanted = if (isFolder(file)) file.list().isNullOrEmpty() else name !in listed
        if (unwanted && !file.delete()) throw IOException("${file.path} cannot be deleted")
    }
}
