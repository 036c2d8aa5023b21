package dev.heliumedge.core

import java.io.File
import java.io.FileOutputStream
import java.io.IOException

private const val PARTIAL = ".partial"
private const val REPLACED = ".replaced"

/** The folder with the bundles of an app: which there are, and how an imported one takes its place among them. */
public class BundleStore(private val folder: File) {
    /**
     * The bundles by name, without what is still being imported.
     *
     * @throws StorageException The folder is there and cannot be read, as one that another user of the device made.
     */
    public fun bundles(): List<File> {
        recover()
        val found = folder.listFiles()
        if (found == null && folder.exists()) throw StorageException(Phrase.NOT_ALLOWED.with(folder.path))
        return found.orEmpty().filter { !isInternal(it) && File(it, MANIFEST_NAME).isFile }.sortedBy { it.name }
    }

    /** A bundle by the name of its folder; null where there is none. Any text may be asked for. */
    public fun bundle(name: String): File? = bundles().firstOrNull { it.name == name }

    /** Ends what an import could not: it was killed between the two steps of [publish]. */
    public fun recover() {
        for (replaced in folder.listFiles().orEmpty().filter { it.name.endsWith(REPLACED) }) {
            val place = File(folder, replaced.name.removeSuffix(REPLACED))
            if (place.exists()) replaced.deleteRecursively() else replaced.renameTo(place)
        }
    }

    /** Where the files of a bundle are collected. */
    internal fun partial(name: String) = File(folder, safe(name) + PARTIAL)

    /**
     * Gives a complete copy its name. The bundle that has it is moved aside first and deleted last, so that at any time
     * one of the two is whole under one of two names that [recover] knows.
     *
     * @throws IOException It cannot be written.
     */
    internal fun publish(name: String, manifest: String): File {
        val partial = partial(name)
        val place = File(folder, safe(name))
        val replaced = File(folder, safe(name) + REPLACED)
        FileOutputStream(File(partial, MANIFEST_NAME)).use {
            it.write(manifest.toByteArray(Charsets.UTF_8))
            it.fd.sync()
        }
        if (place.exists() && !place.renameTo(replaced)) throw IOException("${place.path} cannot be replaced")
        if (!partial.renameTo(place)) {
            replaced.renameTo(place)
            throw IOException("${partial.path} cannot be renamed")
        }
        replaced.deleteRecursively()
        return place
    }

    private fun isInternal(file: File) = file.name.endsWith(PARTIAL) || file.name.endsWith(REPLACED)

    private fun safe(name: String) = name.map { if (it.isLetterOrDigit() || it in "-_") it else '_' }.joinToString("")
}
