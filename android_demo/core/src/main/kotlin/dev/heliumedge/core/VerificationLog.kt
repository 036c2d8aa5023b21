package dev.heliumedge.core

import java.io.File
import java.io.IOException
import java.nio.file.Files
import java.nio.file.attribute.FileTime
import java.util.concurrent.TimeUnit

/**
 * Which files were found right, kept in a text file of the app: by path, size, sha256, the time of the last write, and that
 * of the last change of any kind, which Linux keeps as well. A file that was written since is not known any more, so it is
 * read again.
 *
 * What it trusts is that nobody gives a file other bytes and the old times. The time of writing anybody may set who may
 * write, as other apps could on the shared storage of Android 9 and 10; the time of change only the system sets. Where a
 * file system has none, size and time of writing are all there is, and an app that shares its bundles with others had
 * better pass no log.
 */
public class VerificationLog(private val file: File) {
    private val lines: MutableSet<String> = try {
        if (file.isFile) readText(file).lines().toMutableSet() else mutableSetOf()
    } catch (_: StorageException) {
        // Nothing is known then, so that everything is verified again: no reason not to start.
        mutableSetOf()
    }

    /**
     * What is to be remembered of a file, as it is now.
     *
     * @param place Where it will lie; a folder around it may be renamed, which changes nothing of the file.
     */
    internal fun stateOf(bundled: File, entry: FileSpec, place: File = bundled): String =
        "${entry.sha256} ${entry.bytes} ${bundled.lastModified()} ${changed(bundled)} ${place.absolutePath}"

    @Synchronized
    internal fun knows(state: String): Boolean = state in lines

    /** @throws StorageException The log cannot be written; this process remembers all the same. */
    @Synchronized
    internal fun remember(states: List<String>) {
        val fresh = states.filter(lines::add)
        if (fresh.isEmpty()) return
        try {
            file.appendText(fresh.joinToString("") { it + "\n" })
        } catch (error: IOException) {
            throw StorageException(Phrase.CANNOT_WRITE.with(file.path, error.message.orEmpty()), error)
        }
    }

    /** Nanoseconds of the last change; null where the system does not tell. */
    private fun changed(bundled: File): Long? = try {
        (Files.getAttribute(bundled.toPath(), "unix:ctime") as? FileTime)?.to(TimeUnit.NANOSECONDS)
    } catch (_: IOException) {
        null
    } catch (_: RuntimeException) {
        // Not every system knows this kind of attribute.
        null
    }
}
