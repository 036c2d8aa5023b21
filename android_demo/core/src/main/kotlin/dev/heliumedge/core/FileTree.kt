package dev.heliumedge.core

import java.io.File
import java.nio.file.Files

/** Whether it is a folder itself and not a link to one, which leads anywhere. */
internal fun isFolder(file: File): Boolean = file.isDirectory && !Files.isSymbolicLink(file.toPath())

/** Deletes a file, or a folder with all that is in it; of a link only the link. What cannot be deleted stays. */
internal fun deleteTree(file: File) {
    if (isFolder(file)) file.listFiles().orEmpty().forEach { deleteTree(it) }
    file.delete()
}

/** Bytes of a file, or of all files in a folder. */
internal fun bytesOf(file: File): Long = if (isFolder(file)) file.listFiles().orEmpty().sumOf { bytesOf(it) } else file.length()
