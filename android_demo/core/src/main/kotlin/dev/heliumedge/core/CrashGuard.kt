package dev.heliumedge.core

import java.io.File
import java.io.IOException

/**
 * Keeps the app from loading again what ended it: a note is written before a bundle is loaded and removed when that
 * went well. A note that is still there at the next start means that the process died in between, as the system ends
 * processes that take too much memory.
 */
public class CrashGuard(private val note: File) {
    /** The bundle whose loading ended the process last time, or null. */
    public fun suspect(): String? = if (note.isFile) readText(note).trim().ifEmpty { null } else null

    /** Forgets it: the user wants to try again. */
    public fun forget() {
        note.delete()
    }

    /** Runs [load] with the note in place; it is removed also when [load] throws, because then the process lives. */
    public fun <T> loading(bundle: String, load: () -> T): T {
        try {
            note.writeText(bundle)
        } catch (error: IOException) {
            throw StorageException(Phrase.CANNOT_WRITE.with(note.path, error.message.orEmpty()), error)
        }
        return try {
            load()
        } finally {
            note.delete()
        }
    }
}
